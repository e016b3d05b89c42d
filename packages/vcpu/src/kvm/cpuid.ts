/** CPUID between KVM's flat list of entries (api.rst sec. 4.20, 4.46) and the engine contract's table. */
import type { CpuidTable } from "../engine.ts";
import type { Native } from "./native.ts";
import { CPUID_SIGNIFICANT_INDEX, CpuidEntry, Size, Struct } from "./structs.ts";

interface Registers {
  eax: number;
  ebx: number;
  ecx: number;
  edx: number;
}

/** KVM_MAX_CPUID_ENTRIES. */
const MAX_ENTRIES = 256;
/** The ranges in which a processor or a hypervisor tells its highest leaf. */
const RANGES = [0x0, 0x4000_0000, 0x4000_0100, 0x8000_0000] as const;
/** A range longer than this is none: its first leaf holds something else. */
const MAX_RANGE = 0x40;
/** XSAVE components that leaf 0xD describes, a subleaf each. */
const XSAVE_COMPONENTS = 63;
const EMPTY: Registers = { eax: 0, ebx: 0, ecx: 0, edx: 0 };

/** What KVM and this host's processor can offer a guest. @throws KvmError */
export function supportedCpuid(native: Native, kvmFd: number): CpuidTable {
  const list = new Struct(Size.CPUID2_HEADER + MAX_ENTRIES * Size.CPUID_ENTRY);
  list.setU32(0, MAX_ENTRIES);
  native.ioctlStruct(kvmFd, "KVM_GET_SUPPORTED_CPUID", list);
  const leaves = new Map<number, Registers>();
  for (let i = 0; i < list.u32(0); i++) {
    const at = Size.CPUID2_HEADER + i * Size.CPUID_ENTRY;
    const isIndexed = (list.u32(at + CpuidEntry.FLAGS) & CPUID_SIGNIFICANT_INDEX) !== 0;
    const subleaf = isIndexed ? list.u32(at + CpuidEntry.INDEX) : 0;
    leaves.set(keyOf(list.u32(at + CpuidEntry.FUNCTION), subleaf), {
      eax: list.u32(at + CpuidEntry.EAX),
      ebx: list.u32(at + CpuidEntry.EBX),
      ecx: list.u32(at + CpuidEntry.ECX),
      edx: list.u32(at + CpuidEntry.EDX),
    });
  }
  return { query: (_index, leaf, subleaf) => leaves.get(keyOf(leaf, subleaf)) ?? EMPTY };
}

/** Exact for every 32-bit leaf and the first 2^20 subleaves, beyond which nobody has any. */
function keyOf(leaf: number, subleaf: number): number {
  return leaf * 2 ** 20 + Math.min(subleaf, 2 ** 20 - 1);
}

/**
 * The entries of `table` for vCPU `index`, as KVM_SET_CPUID2 takes them.
 *
 * KVM itself lays over them what mirrors the vCPU's registers: OSXSAVE, APIC enabled, XSAVE's current size.
 */
export function cpuidEntries(table: CpuidTable, index: number): Struct {
  const entries: [leaf: number, subleaf: number, isIndexed: boolean, registers: Registers][] = [];
  for (const first of RANGES) {
    const last = table.query(index, first, 0).eax;
    if (last < first || last - first > MAX_RANGE) continue;
    for (let leaf = first; leaf <= last; leaf++) {
      const subleaves = indexedSubleaves(table, index, leaf);
      if (subleaves === undefined) entries.push([leaf, 0, false, table.query(index, leaf, 0)]);
      else for (const sub of subleaves) entries.push([leaf, sub, true, table.query(index, leaf, sub)]);
    }
  }
  const struct = new Struct(Size.CPUID2_HEADER + entries.length * Size.CPUID_ENTRY);
  struct.setU32(0, entries.length);
  entries.forEach(([leaf, subleaf, isIndexed, { eax, ebx, ecx, edx }], i) => {
    const at = Size.CPUID2_HEADER + i * Size.CPUID_ENTRY;
    struct.setU32(at + CpuidEntry.FUNCTION, leaf);
    struct.setU32(at + CpuidEntry.INDEX, subleaf);
    struct.setU32(at + CpuidEntry.FLAGS, isIndexed ? CPUID_SIGNIFICANT_INDEX : 0);
    struct.setU32(at + CpuidEntry.EAX, eax);
    struct.setU32(at + CpuidEntry.EBX, ebx);
    struct.setU32(at + CpuidEntry.ECX, ecx);
    struct.setU32(at + CpuidEntry.EDX, edx);
  });
  return struct;
}

/** Subleaves of a leaf that ECX selects among; `undefined` where it does not. */
function indexedSubleaves(table: CpuidTable, index: number, leaf: number): number[] | undefined {
  const query = (subleaf: number): Registers => table.query(index, leaf, subleaf);
  const through = (isLast: (registers: Registers, subleaf: number) => boolean): number[] => {
    const list: number[] = [];
    for (let subleaf = 0; subleaf < MAX_RANGE; subleaf++) {
      list.push(subleaf);
      if (isLast(query(subleaf), subleaf)) break;
    }
    return list;
  };
  switch (leaf) {
    case 0x4: // The cache of type 0 ends the list (SDM Vol. 2A, CPUID).
      return through(({ eax }) => (eax & 0x1f) === 0);
    case 0x7: {
      const last = query(0).eax;
      return through((_, subleaf) => subleaf >= last);
    }
    case 0xb:
    case 0x1f: // The level of type 0 ends the list.
      return through(({ ecx }) => ((ecx >>> 8) & 0xff) === 0);
    case 0xd: {
      const list = [0, 1];
      for (let component = 2; component < XSAVE_COMPONENTS; component++) {
        if (query(component).eax !== 0) list.push(component);
      }
      return list;
    }
    default:
      return undefined;
  }
}
