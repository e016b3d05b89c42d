import { Cpu, Mode, NTLB_ENTRIES, Seg, TLB_BYTES, TlbMode } from "./layout.ts";
import { Slot } from "./slots.ts";
import { CR4, EFER } from "./state.ts";

/** Bits of CR4 that the engine implements: what a CPUID model may offer at most. */
export const CR4_IMPLEMENTED = BigInt(
  CR4.TSD |
    CR4.DE |
    CR4.PSE |
    CR4.PAE |
    CR4.MCE |
    CR4.PGE |
    CR4.PCE |
    CR4.OSFXSR |
    CR4.OSXMMEXCPT |
    CR4.UMIP |
    CR4.FSGSBASE |
    CR4.PCIDE |
    CR4.OSXSAVE |
    CR4.SMEP |
    CR4.SMAP,
);
export const EFER_IMPLEMENTED = BigInt(EFER.SCE | EFER.LME | EFER.NXE);
/** x87 and SSE state. */
export const XCR0_IMPLEMENTED = 3n;

export interface ResetOptions {
  /** RESET clears everything; INIT keeps x87, SSE, the time-stamp counter and most MSRs. */
  readonly kind: "reset" | "init";
  /** EDX after reset: CPUID leaf 1's EAX. */
  readonly signature: number;
  /** Application processors wait for a start-up IPI afterwards. */
  readonly waitForSipi: boolean;
}

/** Rights in VMCS format: present read/write data, accessed. */
const DATA = 0x93;

/**
 * Puts the vCPU block at arena address `cpu` in the state after RESET or INIT (SDM Vol. 3A table 10-1). What
 * is the host's (page flags, EPT, time, `Slot.*_ALLOWED`, WANT_WINDOW) is left alone.
 */
export function resetCpu(arena: DataView, cpu: number, options: ResetOptions): void {
  const set32 = (field: number, value: number): void => arena.setInt32(cpu + field, value | 0, true);
  const set64 = (field: number, value: bigint): void => arena.setBigUint64(cpu + field, value, true);
  const zero = (field: number, bytes: number): void => {
    new Uint8Array(arena.buffer, arena.byteOffset + cpu + field, bytes).fill(0);
  };
  const cold = options.kind === "reset";

  zero(Cpu.GPR, 16 * 8);
  set64(Cpu.GPR + 2 * 8, BigInt(options.signature >>> 0));
  set64(Cpu.ZERO, 0n);
  set64(Cpu.RIP, 0xfff0n);
  set32(Cpu.RFLAGS, 2);
  set32(Cpu.FLAG_KIND, 0);
  set32(Cpu.FLAG_AUX, 0);
  set32(Cpu.CPL, 0);

  const segment = (seg: number, selector: number, base: bigint, access: number): void => {
    set32(Cpu.SEG_SELECTOR + 4 * seg, selector);
    set64(Cpu.SEG_BASE + 8 * seg, base);
    set32(Cpu.SEG_LIMIT + 4 * seg, 0xffff);
    set32(Cpu.SEG_ACCESS + 4 * seg, access);
  };
  for (const seg of [Seg.ES, Seg.SS, Seg.DS, Seg.FS, Seg.GS]) segment(seg, 0, 0n, DATA);
  segment(Seg.CS, 0xf000, 0xffff_0000n, DATA);
  segment(Seg.LDTR, 0, 0n, 0x82);
  segment(Seg.TR, 0, 0n, 0x8b);
  for (const [base, limit] of [
    [Cpu.GDT_BASE, Cpu.GDT_LIMIT],
    [Cpu.IDT_BASE, Cpu.IDT_LIMIT],
  ] as const) {
    set64(base, 0n);
    set32(limit, 0xffff);
  }

  // INIT keeps CD and NW.
  const kept = cold ? 0x6000_0000n : arena.getBigUint64(cpu + Cpu.CR0, true) & 0x6000_0000n;
  set64(Cpu.CR0, kept | 0x10n);
  for (const field of [Cpu.CR2, Cpu.CR3, Cpu.CR4, Cpu.EFER]) set64(field, 0n);
  zero(Cpu.PDPTR, 4 * 8);
  zero(Cpu.DR, 8 * 8);
  set64(Cpu.DR + 6 * 8, 0xffff_0ff0n);
  set64(Cpu.DR + 7 * 8, 0x400n);

  if (cold) {
    zero(Cpu.XMM, 16 * 16);
    zero(Cpu.FPR, 8 * 16);
    set32(Cpu.FCW, 0x40);
    for (const field of [Cpu.FSW, Cpu.TOP, Cpu.FOP, Cpu.FCS, Cpu.FDS]) set32(field, 0);
    set32(Cpu.FTW, 0x5555);
    set64(Cpu.FIP, 0n);
    set64(Cpu.FDP, 0n);
    set32(Cpu.MXCSR, 0x1f80);
    set64(Cpu.XCR0, 1n);
    for (const field of [
      Cpu.STAR,
      Cpu.LSTAR,
      Cpu.CSTAR,
      Cpu.FMASK,
      Cpu.KERNEL_GS_BASE,
      Cpu.TSC_AUX,
      Cpu.TSC_OFFSET,
      Cpu.TSC_ADJUST,
      Cpu.SYSENTER_CS,
      Cpu.SYSENTER_ESP,
      Cpu.SYSENTER_EIP,
      Cpu.XSS,
      Cpu.SPEC_CTRL,
      Cpu.DEBUGCTL,
    ])
      set64(field, 0n);
    set64(Cpu.PAT, 0x0007_0406_0007_0406n);
    // Fast strings; neither branch trace store nor precise event sampling.
    set64(Cpu.MISC_ENABLE, 0x1801n);
  }

  for (const field of [
    Cpu.EVENT,
    Cpu.EXC_VECTOR,
    Cpu.EXC_ERROR,
    Cpu.EXC_HAS_ERROR,
    Cpu.INJECT,
    Cpu.SHADOW,
    Cpu.NMI_BLOCKED,
    Cpu.NMI_PENDING,
    Cpu.SYNCED,
    Cpu.REPLAY_COUNT,
    Cpu.REPLAY_NEXT,
    Cpu.LINK,
    Slot.MSR_FAULT,
    Slot.NO_STEP_TRAP,
    Slot.PENDING_DEBUG,
  ])
    set32(field, 0);
  set32(Cpu.ACTIVITY, options.waitForSipi ? 2 : 0);
  set32(Cpu.MODE, Mode.CODE16 | Mode.REAL);
  set32(Cpu.TLB, cpu + Cpu.TLBS + TlbMode.SUPERVISOR * TLB_BYTES);
  // Tags of all ones are as invalid as TLB_INVALID: their low bits are set.
  new Uint8Array(arena.buffer, arena.byteOffset + cpu + Cpu.TLBS, 3 * TLB_BYTES).fill(0xff);
  zero(Cpu.NTLB, NTLB_ENTRIES * 8);
}

/** Start-up IPI: real mode at CS = `vector` << 8, IP 0 (SDM Vol. 3A sec. 10.4.4). For a vCPU that waits for it. */
export function startCpu(arena: DataView, cpu: number, vector: number): void {
  arena.setInt32(cpu + Cpu.SEG_SELECTOR + 4 * Seg.CS, vector << 8, true);
  arena.setBigUint64(cpu + Cpu.SEG_BASE + 8 * Seg.CS, BigInt(vector << 12), true);
  arena.setBigUint64(cpu + Cpu.RIP, 0n, true);
  arena.setInt32(cpu + Cpu.ACTIVITY, 0, true);
}
