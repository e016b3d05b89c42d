import { type Builder, fn, type I32, type I64 } from "../ir/builder.ts";
import { writeEfer } from "./control.ts";
import { Cpu, Event, Seg } from "./layout.ts";
import { replayed } from "./memory.ts";
import { Slot } from "./slots.ts";
import { get32, get64, set32, set64, Vector } from "./state.ts";
import { nonCanonical, refuse, returnOnEvent } from "./system.ts";
import { readTsc, writeTsc, writeTscAdjust } from "./tsc.ts";

/**
 * Model-specific registers (SDM Vol. 4 ch. 2). Those whose value is in the vCPU block are handled here; for
 * every other the engine exits (`Rdmsr`, `Wrmsr`), and the host's answer may be #GP(0).
 */

type Check = (f: Builder, value: I64) => I32;

interface Msr {
  readonly index: number;
  readonly field: number;
  /** 1 where the value is refused. */
  readonly refuses?: Check;
  /** Instead of storing `field`; sets EVENT where it refuses. */
  readonly write?: (f: Builder, value: I64) => void;
  readonly read?: (f: Builder) => I64;
}

const canonical: Check = (_f, value) => nonCanonical(value);
const only =
  (mask: bigint): Check =>
  (f, value) =>
    value.and(f.i64(mask).not()).ne(0);

/** IA32_PAT: eight memory types of 0, 1, 4, 5, 6 or 7 (SDM Vol. 3A sec. 12.12.2). */
const badPat: Check = (_f, value) => {
  const reserved = value.and(0xf8f8_f8f8_f8f8_f8f8n).ne(0);
  // Types 2 and 3: bit 1 set, bit 2 clear.
  const high = value.shrU(1).and(value.shrU(2).not()).and(0x0101_0101_0101_0101n).ne(0);
  return reserved.or(high);
};

export const MSRS: readonly Msr[] = [
  {
    index: 0x10,
    field: Cpu.TSC_OFFSET,
    read: (f) => f.call<I64>(readTsc),
    write: (f, value) => f.call(writeTsc, value),
  },
  { index: 0x3b, field: Cpu.TSC_ADJUST, write: (f, value) => f.call(writeTscAdjust, value) },
  { index: 0x174, field: Cpu.SYSENTER_CS, refuses: only(0xffff_ffffn) },
  { index: 0x175, field: Cpu.SYSENTER_ESP, refuses: canonical },
  { index: 0x176, field: Cpu.SYSENTER_EIP, refuses: canonical },
  // Last-branch records and branch stepping are not done.
  { index: 0x1d9, field: Cpu.DEBUGCTL, refuses: only(0n) },
  { index: 0x277, field: Cpu.PAT, refuses: badPat },
  { index: 0xda0, field: Cpu.XSS, refuses: only(0n) },
  { index: 0xc000_0080, field: Cpu.EFER, write: (f, value) => f.call(writeEfer, value) },
  { index: 0xc000_0081, field: Cpu.STAR },
  { index: 0xc000_0082, field: Cpu.LSTAR, refuses: canonical },
  { index: 0xc000_0083, field: Cpu.CSTAR, refuses: canonical },
  { index: 0xc000_0084, field: Cpu.FMASK, refuses: only(0xffff_ffffn) },
  { index: 0xc000_0100, field: Cpu.SEG_BASE + 8 * Seg.FS, refuses: canonical },
  { index: 0xc000_0101, field: Cpu.SEG_BASE + 8 * Seg.GS, refuses: canonical },
  { index: 0xc000_0102, field: Cpu.KERNEL_GS_BASE, refuses: canonical },
  { index: 0xc000_0103, field: Cpu.TSC_AUX, refuses: only(0xffff_ffffn) },
];

/** Exits for an MSR that the host keeps. `value` is what is written. */
function exitForMsr(f: Builder, reason: number, index: I32, value: I64): void {
  set32(f, Cpu.EXIT_REASON, reason);
  set32(f, Cpu.EXIT_A, index);
  set32(f, Cpu.EXIT_B, value.wrap());
  set32(f, Cpu.EXIT_C, value.shrU(32).wrap());
  set32(f, Cpu.EVENT, Event.EXIT_RETRY);
}

/** Takes the host's verdict on the MSR access that it answered: 1 for #GP(0). */
function hostRefused(f: Builder): I32 {
  const verdict = f.let(get32(f, Slot.MSR_FAULT));
  set32(f, Slot.MSR_FAULT, 0);
  return verdict;
}

/** Runs `then` for the MSR among `MSRS` that `index` is; returns from the function there. */
function among(f: Builder, index: I32, then: (msr: Msr) => void): void {
  const group = (high: boolean): void => {
    for (const msr of MSRS)
      if (msr.index >= 0xc000_0000 === high) f.if(index.eq(msr.index | 0), () => then(msr));
  };
  f.if(
    index.ltS(0),
    () => group(true),
    () => group(false),
  );
}

/** RDMSR: the value of MSR `index`. Test EVENT. */
export const readMsr = fn("readMsr", ["i32"], "i64", (f, index) => {
  among(f, index, (msr) => f.return(msr.read?.(f) ?? get64(f, msr.field)));
  replayed(
    f,
    (value) => {
      refuse(f, hostRefused(f), Vector.GP, 0, f.i64(0));
      f.return(value);
    },
    () => exitForMsr(f, 31, index, f.i64(0)),
  );
  f.return(f.i64(0));
});

/** WRMSR. Test EVENT. */
export const writeMsr = fn("writeMsr", ["i32", "i64"], undefined, (f, index, value) => {
  among(f, index, (msr) => {
    if (msr.refuses !== undefined) refuse(f, msr.refuses(f, value), Vector.GP);
    if (msr.write === undefined) set64(f, msr.field, value);
    else msr.write(f, value);
    f.return();
  });
  replayed(
    f,
    () => refuse(f, hostRefused(f), Vector.GP),
    () => exitForMsr(f, 32, index, value),
  );
  returnOnEvent(f);
});
