/**
 * The processor as a kernel finds it: flat segments, interrupts off, and either paging off in protected mode or
 * long mode with the first 4 GiB mapped to themselves (boot.rst "32-bit boot protocol", "64-bit boot protocol";
 * Xen docs/misc/pvh.pandoc).
 */
import type { SegmentState, VcpuStateV1 } from "@skep/vcpu";
import { StructWriter } from "../bytes.ts";
import { BootLayout, type MemoryWrite, PAGE_BYTES } from "../layout.ts";

/** Indexes into `VcpuStateV1.gpr`. */
const Gpr = { RBX: 3, RSP: 4, RSI: 6 } as const;

/** Selectors that the Linux boot protocol prescribes: __BOOT_CS, __BOOT_DS, and behind them a TSS. */
const Selector = { CODE: 0x10, DATA: 0x18, TSS: 0x20 } as const;

/** Access rights in VMCS format (SDM Vol. 3C table 24-2). */
const Access = {
  CODE_32: 0xc09b, // G, D, P, code, execute/read, accessed
  CODE_64: 0xa09b, // G, L
  DATA: 0xc093, // G, B, P, data, read/write, accessed
  TSS_BUSY: 0x008b, // P, 32-bit or 64-bit busy TSS: VM entry asks for a busy one (SDM Vol. 3C sec. 26.3.1.2)
  UNUSABLE: 0x1_0000,
} as const;

const CR0 = { PE: 0x1n, ET: 0x10n, PG: 0x8000_0000n } as const;
const CR4 = { PAE: 0x20n } as const;
const EFER = { INDEX: "c0000080", LME: 0x100n, LMA: 0x400n } as const;
const RFLAGS_FIXED = 0x2n;

const TSS_LIMIT = 0x67;
const FLAT_LIMIT = 0xffff_ffff;

export interface EntryState {
  readonly mode: "long" | "protected";
  /** Instruction pointer, physical. */
  readonly entry: number;
  /** Structure handed over: Linux reads boot_params from RSI, PVH its start info from EBX. */
  readonly rsi?: number;
  readonly rbx?: number;
}

/** The GDT, and for long mode the page tables, that `applyEntryState` points the processor at. */
export function entryTables(mode: EntryState["mode"]): MemoryWrite[] {
  const writes: MemoryWrite[] = [{ name: "GDT", address: BootLayout.GDT, bytes: gdt(mode) }];
  if (mode === "long") {
    writes.push({ name: "page tables", address: BootLayout.PAGE_TABLES, bytes: identityPageTables() });
  }
  return writes;
}

/** Puts a vCPU at a kernel's entry. Everything that the entry does not define is left as it was. */
export function applyEntryState(state: VcpuStateV1, at: EntryState): void {
  const long = at.mode === "long";
  state.gpr = new Array<bigint>(16).fill(0n);
  state.gpr[Gpr.RSP] = BigInt(BootLayout.STACK_TOP);
  state.gpr[Gpr.RSI] = BigInt(at.rsi ?? 0);
  state.gpr[Gpr.RBX] = BigInt(at.rbx ?? 0);
  state.rip = BigInt(at.entry);
  state.rflags = RFLAGS_FIXED;
  state.cs = segment(Selector.CODE, long ? Access.CODE_64 : Access.CODE_32, FLAT_LIMIT);
  for (const name of ["ds", "es", "ss", "fs", "gs"] as const) {
    state[name] = segment(Selector.DATA, Access.DATA, FLAT_LIMIT);
  }
  state.tr = segment(Selector.TSS, Access.TSS_BUSY, TSS_LIMIT);
  state.ldtr = segment(0, Access.UNUSABLE, 0);
  state.gdtr = { base: BigInt(BootLayout.GDT), limit: gdt(at.mode).length - 1 };
  // No handlers: any exception before the kernel loads its own table ends in a triple fault, as on hardware.
  state.idtr = { base: 0n, limit: 0 };
  state.cr0 = CR0.PE | CR0.ET | (long ? CR0.PG : 0n);
  state.cr2 = 0n;
  state.cr3 = long ? BigInt(BootLayout.PAGE_TABLES) : 0n;
  state.cr4 = long ? CR4.PAE : 0n;
  state.msrs[EFER.INDEX] = long ? EFER.LME | EFER.LMA : 0n;
  state.activity = "active";
  state.interruptibility = { sti: false, movSs: false, nmiBlocked: false };
  state.pendingEvent = undefined;
  state.pendingNmi = false;
}

function segment(selector: number, access: number, limit: number): SegmentState {
  return { selector, base: 0n, limit, access };
}

/** Null, unused, code, data, TSS (two slots in long mode); the same as the hidden parts above. */
function gdt(mode: EntryState["mode"]): Uint8Array {
  const table = new StructWriter(0x30);
  descriptor(table, Selector.CODE, mode === "long" ? Access.CODE_64 : Access.CODE_32, 0xf_ffff);
  descriptor(table, Selector.DATA, Access.DATA, 0xf_ffff);
  descriptor(table, Selector.TSS, Access.TSS_BUSY, TSS_LIMIT);
  return table.bytes;
}

/** A descriptor with base 0 (SDM Vol. 3A fig. 3-8); `limit` in the granularity that `access` says. */
function descriptor(table: StructWriter, selector: number, access: number, limit: number): void {
  const high = ((access & 0xf000) << 8) | (limit & 0xf_0000) | ((access & 0xff) << 8);
  table.u32(selector, limit & 0xffff).u32(selector + 4, high);
}

/**
 * PML4, PDPT and four page directories: 4 GiB by 2 MiB pages. Not 1 GiB pages: whether the processor has them is
 * the CPUID model's choice, and this must hold for all.
 */
function identityPageTables(): Uint8Array {
  const ENTRY_BYTES = 8;
  const PRESENT_WRITABLE = 0x3;
  const PAGE_2M = 0x83;
  const [pdpt, directories] = [PAGE_BYTES, 2 * PAGE_BYTES];
  const tables = new StructWriter(6 * PAGE_BYTES);
  tables.u64(0, BootLayout.PAGE_TABLES + pdpt + PRESENT_WRITABLE);
  for (let i = 0; i < 4; i++) {
    const directory = BootLayout.PAGE_TABLES + directories + i * PAGE_BYTES;
    tables.u64(pdpt + i * ENTRY_BYTES, directory + PRESENT_WRITABLE);
  }
  for (let i = 0; i < 4 * 512; i++) {
    // Below 4 GiB, the upper half of an entry stays 0.
    tables.u32(directories + i * ENTRY_BYTES, i * 0x20_0000 + PAGE_2M);
  }
  return tables.bytes;
}
