import type { SegmentState, VcpuStateV1 } from "./state.ts";

/** XCR0 bit 0, x87: always set (SDM Vol. 3A sec. 2.6). */
const XCR0_RESET = 1n;
const PAT_RESET = 0x0007_0406_0007_0406n;

/**
 * A vCPU after RESET (SDM Vol. 3A table 10-1): real mode at F000:FFF0 with the code segment's base at
 * 0xFFFF0000. What the table leaves open is zero.
 *
 * @param signature RDX: CPUID leaf 1 EAX, which RESET leaves there. 32 bits, default 0.
 */
export function resetVcpuState(signature = 0): VcpuStateV1 {
  const data = (): SegmentState => ({ selector: 0, base: 0n, limit: 0xffff, access: 0x93 });
  const gpr = new Array<bigint>(16).fill(0n);
  gpr[2] = BigInt(signature);
  return {
    kind: "vcpu",
    version: 1,
    gpr,
    rip: 0xfff0n,
    rflags: 2n,
    es: data(),
    cs: { selector: 0xf000, base: 0xffff_0000n, limit: 0xffff, access: 0x9b },
    ss: data(),
    ds: data(),
    fs: data(),
    gs: data(),
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
    msrs: { "277": PAT_RESET },
    fpu: {
      fcw: 0x40,
      fsw: 0,
      ftw: 0x5555,
      fop: 0,
      fip: 0n,
      fdp: 0n,
      registers: Array.from({ length: 8 }, () => ({ significand: 0n, signExponent: 0 })),
      mxcsr: 0x1f80,
      xmm: new Array<bigint>(16).fill(0n),
      xcr0: XCR0_RESET,
    },
    activity: "active",
    interruptibility: { sti: false, movSs: false, nmiBlocked: false },
    pendingEvent: undefined,
    pendingNmi: false,
    tscOffset: 0n,
    instructions: 0n,
  };
}
