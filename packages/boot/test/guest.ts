/** Guest memory as the booted kernel sees it: what was written, by address; the rest reads zero. */
import type { VcpuStateV1 } from "@skep/vcpu";
import type { MemoryWrite } from "../src/index.ts";

export class WrittenMemory {
  readonly #writes: readonly MemoryWrite[];

  constructor(writes: readonly MemoryWrite[]) {
    this.#writes = writes;
  }

  bytes(address: number, length: number): Uint8Array {
    const into = new Uint8Array(length);
    for (const write of this.#writes) {
      const from = Math.max(address, write.address);
      const to = Math.min(address + length, write.address + write.bytes.length);
      if (from < to) into.set(write.bytes.subarray(from - write.address, to - write.address), from - address);
    }
    return into;
  }

  u8(address: number): number {
    return this.bytes(address, 1)[0] ?? 0;
  }

  u16(address: number): number {
    return new DataView(this.bytes(address, 2).buffer).getUint16(0, true);
  }

  u32(address: number): number {
    return new DataView(this.bytes(address, 4).buffer).getUint32(0, true);
  }

  u64(address: number): bigint {
    return new DataView(this.bytes(address, 8).buffer).getBigUint64(0, true);
  }

  text(address: number, length: number): string {
    return String.fromCharCode(...this.bytes(address, length));
  }

  /** A zero-terminated string. */
  cString(address: number): string {
    let end = address;
    while (this.u8(end) !== 0) end += 1;
    return this.text(address, end - address);
  }

  sum(address: number, length: number): number {
    return this.bytes(address, length).reduce((sum, byte) => (sum + byte) & 0xff, 0);
  }
}

/** A processor as RESET leaves it (SDM Vol. 3A table 10-1), with some fields soiled to see them set. */
export function resetState(): VcpuStateV1 {
  const segment = { selector: 0, base: 0n, limit: 0xffff, access: 0x93 };
  return {
    kind: "vcpu",
    version: 1,
    gpr: new Array<bigint>(16).fill(0xdeadn),
    rip: 0xfff0n,
    rflags: 0x202n,
    es: segment,
    cs: { selector: 0xf000, base: 0xffff_0000n, limit: 0xffff, access: 0x9b },
    ss: segment,
    ds: segment,
    fs: segment,
    gs: segment,
    ldtr: { selector: 0, base: 0n, limit: 0xffff, access: 0x82 },
    tr: { selector: 0, base: 0n, limit: 0xffff, access: 0x8b },
    gdtr: { base: 0n, limit: 0xffff },
    idtr: { base: 0n, limit: 0xffff },
    cr0: 0x6000_0010n,
    cr2: 0n,
    cr3: 0n,
    cr4: 0n,
    pdptrs: [0n, 0n, 0n, 0n],
    dr: { dr0: 0n, dr1: 0n, dr2: 0n, dr3: 0n, dr6: 0xffff_0ff0n, dr7: 0x400n },
    msrs: { "10": 5n },
    fpu: {
      fcw: 0x40,
      fsw: 0,
      ftw: 0x5555,
      fop: 0,
      fip: 0n,
      fdp: 0n,
      registers: [],
      mxcsr: 0x1f80,
      xmm: [],
      xcr0: 1n,
    },
    activity: "halted",
    interruptibility: { sti: true, movSs: false, nmiBlocked: false },
    pendingEvent: undefined,
    pendingNmi: true,
    tscOffset: 7n,
    instructions: 0n,
  };
}

/** Pseudo-random bytes that come again with the same seed (xorshift32). */
export function randomBytes(seed: number): () => number {
  let x = seed || 1;
  return () => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return x >>> 0;
  };
}
