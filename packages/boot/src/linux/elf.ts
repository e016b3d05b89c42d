/**
 * ELF executables as kernels: an x86 vmlinux or any kernel with a PVH entry (System V ABI, gABI ch. 4 and 5;
 * Xen public/elfnote.h). Segments go to their physical addresses. No relocation, no section is read.
 */
import { ImageReader } from "../bytes.ts";
import { BootError, hex } from "../errors.ts";
import type { MemoryRange } from "../layout.ts";

const ELF_MAGIC = 0x464c_457f;
const Ident = { CLASS: 4, DATA: 5 } as const;
const ElfClass = { ELF32: 1, ELF64: 2 } as const;
const LITTLE_ENDIAN = 1;
const ElfType = { EXEC: 2, DYN: 3 } as const;
const Machine = { I386: 3, X86_64: 62 } as const;
const SegmentType = { LOAD: 1, NOTE: 4 } as const;
/** Physical address of the 32-bit entry, in a note of the owner "Xen". */
const XEN_ELFNOTE_PHYS32_ENTRY = 18;
/** Program headers beyond this are refused; a vmlinux has five. */
const MAX_PROGRAM_HEADERS = 256;

/** One PT_LOAD segment. */
export interface ElfSegment {
  /** Physical address. */
  readonly address: number;
  /** What the file holds of it, a view. */
  readonly bytes: Uint8Array;
  /** Its size in memory; what lies beyond `bytes` reads zero. */
  readonly memoryBytes: number;
}

export interface ElfKernel {
  readonly bits: 32 | 64;
  /** e_entry: for x86-64 Linux the physical address of startup_64. */
  readonly entry: number;
  /** The PVH entry, where a note names one. */
  readonly pvhEntry: number | undefined;
  /** In file order, at least one. */
  readonly segments: readonly ElfSegment[];
}

export function isElf(file: Uint8Array): boolean {
  return file.length >= 4 && new ImageReader(file, "kernel").u32(0, "e_ident") === ELF_MAGIC;
}

/**
 * Parses and checks an ELF kernel. Nothing is copied.
 *
 * @throws BootError `not-a-kernel`, `unsupported-elf`, `truncated` or `invalid-value`.
 */
export function parseElf(file: Uint8Array): ElfKernel {
  const image = new ImageReader(file, "kernel");
  if (!isElf(file)) throw new BootError("not-a-kernel", "e_ident", "an ELF file", "something else");
  const elfClass = image.u8(Ident.CLASS, "e_ident[EI_CLASS]");
  if (elfClass !== ElfClass.ELF32 && elfClass !== ElfClass.ELF64) {
    throw new BootError("unsupported-elf", "e_ident[EI_CLASS]", "1 (32-bit) or 2 (64-bit)", elfClass);
  }
  const data = image.u8(Ident.DATA, "e_ident[EI_DATA]");
  if (data !== LITTLE_ENDIAN) {
    throw new BootError("unsupported-elf", "e_ident[EI_DATA]", "1 (little-endian)", data);
  }
  const type = image.u16(0x10, "e_type");
  if (type !== ElfType.EXEC && type !== ElfType.DYN) {
    throw new BootError("unsupported-elf", "e_type", "2 (executable) or 3 (shared)", type);
  }
  const machine = image.u16(0x12, "e_machine");
  const wide = elfClass === ElfClass.ELF64;
  // A 32-bit file may hold 64-bit code (multiboot kernels do), never the other way round.
  if (machine !== Machine.X86_64 && (machine !== Machine.I386 || wide)) {
    throw new BootError("unsupported-elf", "e_machine", wide ? "62 (x86-64)" : "3 (i386) or 62", machine);
  }

  const address = (offset: number, field: string): number =>
    wide ? image.u52(offset, field) : image.u32(offset, field);
  const entry = address(0x18, "e_entry");
  const tableOffset = address(wide ? 0x20 : 0x1c, "e_phoff");
  const entryBytes = image.u16(wide ? 0x36 : 0x2a, "e_phentsize");
  const count = image.u16(wide ? 0x38 : 0x2c, "e_phnum");
  const headerBytes = wide ? 0x38 : 0x20;
  if (entryBytes < headerBytes) {
    throw new BootError("invalid-value", "e_phentsize", `at least ${headerBytes}`, entryBytes);
  }
  if (count === 0 || count > MAX_PROGRAM_HEADERS) {
    throw new BootError("invalid-value", "e_phnum", `1 to ${MAX_PROGRAM_HEADERS}`, count);
  }

  const segments: ElfSegment[] = [];
  let pvhEntry: number | undefined;
  for (let i = 0; i < count; i++) {
    const at = tableOffset + i * entryBytes;
    const field = (name: string): string => `program header ${i}: ${name}`;
    const kind = image.u32(at, field("p_type"));
    if (kind !== SegmentType.LOAD && kind !== SegmentType.NOTE) continue;
    const offset = address(at + (wide ? 0x08 : 0x04), field("p_offset"));
    const physical = address(at + (wide ? 0x18 : 0x0c), field("p_paddr"));
    const fileBytes = address(at + (wide ? 0x20 : 0x10), field("p_filesz"));
    const memoryBytes = address(at + (wide ? 0x28 : 0x14), field("p_memsz"));
    const bytes = image.slice(offset, fileBytes, field("p_filesz"));
    if (kind === SegmentType.NOTE) {
      pvhEntry ??= findPvhEntry(bytes);
      continue;
    }
    if (memoryBytes === 0) continue;
    if (fileBytes > memoryBytes) {
      throw new BootError(
        "invalid-value",
        field("p_filesz"),
        `at most p_memsz, ${hex(memoryBytes)}`,
        fileBytes,
      );
    }
    segments.push({ address: physical, bytes, memoryBytes });
  }
  if (segments.length === 0) {
    throw new BootError("not-a-kernel", "program headers", "at least one PT_LOAD segment", "none");
  }
  return { bits: wide ? 64 : 32, entry, pvhEntry, segments };
}

/** The guest-physical ranges that a kernel's segments occupy. */
export function elfRanges(kernel: ElfKernel): MemoryRange[] {
  return kernel.segments.map((segment) => ({ base: segment.address, bytes: segment.memoryBytes }));
}

/** Whether `address` lies in a segment's bytes from the file. */
export function isLoaded(kernel: ElfKernel, address: number): boolean {
  return kernel.segments.some((s) => address >= s.address && address < s.address + s.bytes.length);
}

/**
 * Walks the notes: name size, descriptor size, type, name and descriptor padded to 4 bytes each. A note that runs
 * over the segment's end ends the walk: notes are only a hint, the kernel may be booted another way.
 */
function findPvhEntry(notes: Uint8Array): number | undefined {
  const NOTE_HEADER_BYTES = 12;
  const reader = new ImageReader(notes, "note segment");
  for (let at = 0; at + NOTE_HEADER_BYTES <= notes.length; ) {
    const nameBytes = reader.u32(at, "n_namesz");
    const descriptorBytes = reader.u32(at + 4, "n_descsz");
    const type = reader.u32(at + 8, "n_type");
    const name = at + NOTE_HEADER_BYTES;
    const descriptor = name + Math.ceil(nameBytes / 4) * 4;
    const next = descriptor + Math.ceil(descriptorBytes / 4) * 4;
    if (descriptor + descriptorBytes > notes.length) return undefined;
    const isXen = nameBytes === 4 && reader.u32(name, "n_name") === 0x006e_6558; // "Xen\0"
    // Four bytes by the specification; 64-bit Linux writes eight.
    if (isXen && type === XEN_ELFNOTE_PHYS32_ENTRY && descriptorBytes >= 4) {
      return reader.u32(descriptor, "XEN_ELFNOTE_PHYS32_ENTRY");
    }
    at = next;
  }
  return undefined;
}
