/** What a processor under test needs to look like the host's user mode: tables, and where they are in its memory. */
import { HOST_LAYOUT } from "../host-cpu/host-cpu.ts";

/** Guest-physical layout, but for `KERNEL`. The windows are mapped at their host addresses by the page tables. */
export const UserSpace = {
  /** Linear address of guest-physical 0 for the processor's own tables and stubs: out of the tests' reach. */
  KERNEL: 0xffff_8000_0000_0000n,
  GDT: 0x1000,
  GDT_LIMIT: 0x37,
  IDT: 0x2000,
  IDT_LIMIT: 0xfff,
  TSS: 0x3000,
  TSS_LIMIT: 0x67,
  /** 16 bytes for each vector. */
  STUBS: 0x4000,
  STACK_TOP: 0x8000,
  TABLES: 0x10_0000,
  DATA: 0x20_0000,
  READ_ONLY: 0x21_0000,
  CODE: 0x22_0000,
  RAM_BYTES: 0x40_0000,
  /** PG WP AM NE ET MP PE. */
  CR0: 0x8005_0033n,
  /** OSXSAVE FSGSBASE OSXMMEXCPT OSFXSR PAE; no SMAP and SMEP, as no user access of the kernel's is tested. */
  CR4: 0x5_0620n,
  /** NXE LMA LME SCE. */
  EFER: 0xd01n,
} as const;

/** Guest-physical memory. */
export interface TableMemory {
  readU64(address: number): bigint;
  writeU64(address: number, value: bigint): void;
  writeU8(address: number, value: number): void;
}

const HLT = 0xf4;

/** Page tables, descriptors, gates: each vector leads to a HLT of its own, with the processor's frame on the stack. */
export function buildUserSpace(memory: TableMemory): void {
  // One PML4, one PDPT, a directory for the gigabyte of the windows and one for the kernel's own pages.
  let next = UserSpace.TABLES + 0x2000;
  const table = (): number => {
    next += 0x1000;
    return next - 0x1000;
  };
  memory.writeU64(UserSpace.TABLES, BigInt(UserSpace.TABLES + 0x1000) | 7n);
  const directories = new Map<number, number>();
  const map = (linear: number, physical: number, bytes: number, flags: bigint): void => {
    for (let offset = 0; offset < bytes; offset += 0x1000) {
      const va = linear + offset;
      const gib = Math.floor(va / 2 ** 30);
      let pd = directories.get(gib);
      if (pd === undefined) {
        pd = table();
        directories.set(gib, pd);
        memory.writeU64(UserSpace.TABLES + 0x1000 + gib * 8, BigInt(pd) | 7n);
      }
      const slot = pd + ((va >>> 21) & 511) * 8;
      let pt = Number(memory.readU64(slot) & ~0xfffn);
      if (pt === 0) {
        pt = table();
        memory.writeU64(slot, BigInt(pt) | 7n);
      }
      memory.writeU64(pt + ((va >>> 12) & 511) * 8, BigInt(physical + offset) | flags);
    }
  };
  const NX = 1n << 63n;
  // The kernel's 2 MiB, by a large page.
  const pdpt = table();
  const pd = table();
  memory.writeU64(UserSpace.TABLES + 256 * 8, BigInt(pdpt) | 3n);
  memory.writeU64(pdpt, BigInt(pd) | 3n);
  memory.writeU64(pd, 0x83n);
  map(HOST_LAYOUT.DATA, UserSpace.DATA, HOST_LAYOUT.DATA_BYTES, 7n | NX);
  map(HOST_LAYOUT.READ_ONLY, UserSpace.READ_ONLY, HOST_LAYOUT.READ_ONLY_BYTES, 5n | NX);
  map(HOST_LAYOUT.CODE, UserSpace.CODE, HOST_LAYOUT.CODE_BYTES, 5n);

  memory.writeU64(UserSpace.GDT + 0x08, 0x00af_9b00_0000_ffffn);
  memory.writeU64(UserSpace.GDT + 0x10, 0x00cf_9300_0000_ffffn);
  memory.writeU64(UserSpace.GDT + 0x20, 0x00cf_fb00_0000_ffffn);
  memory.writeU64(UserSpace.GDT + 0x28, 0x00cf_f300_0000_ffffn);
  memory.writeU64(UserSpace.GDT + 0x30, 0x00af_fb00_0000_ffffn);
  // The I/O permission map lies beyond the limit: no port is allowed.
  memory.writeU64(UserSpace.TSS + 0x60, 0xffff_0000_0000_0000n);
  memory.writeU64(UserSpace.TSS + 4, UserSpace.KERNEL + BigInt(UserSpace.STACK_TOP));
  for (let vector = 0; vector < 256; vector++) {
    const stub = UserSpace.STUBS + vector * 16;
    memory.writeU8(stub, HLT);
    const dpl = vector === 3 || vector === 4 ? 3n : 0n;
    const gate =
      BigInt(stub & 0xffff) | (8n << 16n) | ((0x8en | (dpl << 5n)) << 40n) | (BigInt(stub >>> 16) << 48n);
    memory.writeU64(UserSpace.IDT + vector * 16, gate);
    memory.writeU64(UserSpace.IDT + vector * 16 + 8, UserSpace.KERNEL >> 32n);
  }
}
