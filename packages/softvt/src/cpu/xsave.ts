import { initX87, updateSummary } from "../fpu/status.ts";
import { type Builder, fn, type I32, type I64 } from "../ir/builder.ts";
import { Cpu, Mode } from "./layout.ts";
import { Access, noteWrite, probe } from "./memory.ts";
import { get32, get64, set32, set64, Vector, XCR0 } from "./state.ts";
import { refuse, returnOnEvent } from "./system.ts";

/**
 * The FXSAVE image and the XSAVE area, standard format (SDM Vol. 1 sec. 10.5.1, 13.4).
 *
 * ```text
 *   0 FCW   2 FSW   4 FTW (one bit a register)   6 FOP
 *   8 FIP (64 bits, or 32 and FCS)   16 FDP (64 bits, or 32 and FDS)
 *  24 MXCSR  28 MXCSR_MASK
 *  32 ST0 to ST7, 16 bytes each     160 XMM0 to XMM15, 16 bytes each
 * 512 XSAVE header: XSTATE_BV, XCOMP_BV, zeros
 * 576 upper halves of YMM0 to YMM15, 16 bytes each
 * ```
 *
 * Areas go through `Cpu.STAGE`: they are copied between it and guest memory as a whole, once both pages are
 * known to be accessible, so that no fault can happen half way. An area in MMIO space is refused by #GP(0);
 * hardware would read and write the device.
 */

const { X87, SSE, AVX } = XCR0;

/** MXCSR bits that exist; FXSAVE shows them as MXCSR_MASK. */
export const MXCSR_MASK = 0xffff;

const HEADER = 512;
const AREA_BYTES = 512;
const XSAVE_BYTES = 576;
const YMM_OFFSET = 576;
/** With AVX's component. */
const AVX_BYTES = 832;

const stage32 = (f: Builder, offset: number): I32 => f.load("i32.load", f.cpu, Cpu.STAGE + offset);
const stage64 = (f: Builder, offset: number): I64 => f.load("i64.load", f.cpu, Cpu.STAGE + offset);
const isCode64 = (f: Builder): I32 => get32(f, Cpu.MODE).and(Mode.CODE_MASK).eq(Mode.CODE64);

/**
 * Copies `bytes` bytes between guest memory at `va` and the stage (`write`: 1 to memory), or raises with
 * nothing copied. `bytes` is at most STAGE's size.
 */
export const moveArea = fn("moveArea", ["i64", "i32", "i32"], undefined, (f, va, bytes, write) => {
  const tlb = get32(f, Cpu.TLB);
  const access = f.i32(Access.READ).or(write);
  const first = f.let(f.call<I32>(probe, va, access, tlb));
  f.if(first.eqz(), () => f.return());
  const inFirst = f.let(f.i32(4096).sub(va.wrap().and(0xfff)));
  const split = f.let(inFirst.ltU(bytes));
  const second = f.variable("i32", f.i32(0));
  f.if(split, () => {
    second.set(f.call<I32>(probe, va.add(inFirst.u64()), access, tlb));
    f.if(second.get().eqz(), () => f.return());
  });
  refuse(f, first.eq(1).or(split.and(second.get().eq(1))), Vector.GP);
  const stage = f.let(f.cpu.add(Cpu.STAGE));
  const move = (host: I32, at: I32, length: I32): void => {
    f.if(
      write,
      () => {
        f.copy(host, at, length);
        f.call(noteWrite, host, length);
      },
      () => f.copy(at, host, length),
    );
  };
  move(first, stage, split.select(inFirst, bytes));
  f.if(split, () => move(second.get(), stage.add(inFirst), bytes.sub(inFirst)));
});

/** The tag word with one bit a register, 1 where it is not empty, from the full one. */
const abridgedTags = (f: Builder): I32 => {
  const tags = get32(f, Cpu.FTW);
  // Bit 2i of `used` is set where the tag is not 3.
  const used = tags.and(tags.shrU(1)).xor(-1).and(0x5555);
  const pairs = used.or(used.shrU(1)).and(0x3333);
  const quads = pairs.or(pairs.shrU(2)).and(0x0f0f);
  return quads.or(quads.shrU(4)).and(0xff);
};

/** x87 state to the stage. `wide`: 64-bit FIP and FDP, without selectors. */
const stageX87 = fn("stageX87", ["i32"], undefined, (f, wide) => {
  const put16 = (offset: number, value: I32): void =>
    f.store("i32.store16", f.cpu, value, Cpu.STAGE + offset);
  const top = get32(f, Cpu.TOP).and(7);
  put16(0, get32(f, Cpu.FCW));
  put16(2, get32(f, Cpu.FSW).and(~0x3800).or(top.shl(11)));
  put16(4, abridgedTags(f));
  put16(6, get32(f, Cpu.FOP).and(0x7ff));
  const pointer = (offset: number, field: number, selector: number): void => {
    const narrow = get64(f, field).and(0xffff_ffffn).or(get32(f, selector).and(0xffff).u64().shl(32));
    set64(f, Cpu.STAGE + offset, wide.select(get64(f, field), narrow));
  };
  pointer(8, Cpu.FIP, Cpu.FCS);
  pointer(16, Cpu.FDP, Cpu.FDS);
  for (let i = 0; i < 8; i++) {
    const register = f.let(f.cpu.add(top.add(i).and(7).shl(4)));
    set64(f, Cpu.STAGE + 32 + 16 * i, f.load("i64.load", register, Cpu.FPR));
    set64(f, Cpu.STAGE + 40 + 16 * i, f.load("i64.load16_u", register, Cpu.FPR + 8));
  }
});

/** XMM0 to XMM7, and in 64-bit mode XMM8 to XMM15, to the stage. */
const stageXmm = fn("stageXmm", [], undefined, (f) => {
  f.copy(f.cpu.add(Cpu.STAGE + 160), f.cpu.add(Cpu.XMM), registerBytes(f));
});

/** Bytes of as many vector registers, 16 each, as the mode has. */
const registerBytes = (f: Builder): I32 => isCode64(f).select(f.i32(256), f.i32(128));

/** AVX where an upper half is not zero; else the component is in its initial state (XINUSE, SDM Vol. 1 sec. 13.6). */
const avxInUse = (f: Builder): I32 => {
  let all = f.load("v128.load", f.cpu, Cpu.YMM_HIGH);
  for (let i = 1; i < 16; i++)
    all = f.op("v128.or", [all, f.load("v128.load", f.cpu, Cpu.YMM_HIGH + 16 * i)]);
  return f.op<I32>("v128.any_true", [all]).mul(AVX);
};

const stageMxcsr = (f: Builder): void => {
  set32(f, Cpu.STAGE + 24, get32(f, Cpu.MXCSR));
  set32(f, Cpu.STAGE + 28, MXCSR_MASK);
};

/** The full tag of a register: 0 valid, 1 zero, 2 special (SDM Vol. 1 sec. 8.1.7). */
const tagOf = (significand: I64, signExponent: I32): I32 => {
  const exponent = signExponent.and(0x7fff);
  const zero = exponent.eqz().and(significand.eqz());
  const special = exponent.eqz().or(exponent.eq(0x7fff)).or(significand.bit(63).eqz());
  return zero.or(special.and(zero.eqz()).shl(1));
};

const loadX87 = fn("loadX87", ["i32"], undefined, (f, wide) => {
  const get16 = (offset: number): I32 => f.load("i32.load16_u", f.cpu, Cpu.STAGE + offset);
  const status = f.let(get16(2));
  const top = f.let(status.shrU(11).and(7));
  const used = f.let(get16(4).and(0xff));
  set32(f, Cpu.FCW, get16(0));
  set32(f, Cpu.FSW, status.and(~0x3800));
  set32(f, Cpu.TOP, top);
  set32(f, Cpu.FOP, get16(6).and(0x7ff));
  const pointer = (offset: number, field: number, selector: number): void => {
    const value = stage64(f, offset);
    set64(f, field, wide.select(value, value.and(0xffff_ffffn)));
    set32(f, selector, wide.select(f.i32(0), value.shrU(32).wrap().and(0xffff)));
  };
  pointer(8, Cpu.FIP, Cpu.FCS);
  pointer(16, Cpu.FDP, Cpu.FDS);
  const tags = f.variable("i32", f.i32(0));
  for (let i = 0; i < 8; i++) {
    const physical = f.let(top.add(i).and(7));
    const register = f.cpu.add(physical.shl(4));
    const significand = stage64(f, 32 + 16 * i);
    const signExponent = get16(40 + 16 * i);
    f.store("i64.store", register, significand, Cpu.FPR);
    f.store("i64.store", register, signExponent.u64(), Cpu.FPR + 8);
    const tag = used.shrU(physical).and(1).select(tagOf(significand, signExponent), f.i32(3));
    tags.set(tags.get().or(tag.shl(physical.shl(1))));
  }
  set32(f, Cpu.FTW, tags.get());
  // ES and B are not loaded: they follow from the flags and masks that are.
  f.call(updateSummary);
});

/** x87 as FNINIT leaves it, registers cleared. */
const clearX87 = (f: Builder): void => {
  f.fill(f.cpu.add(Cpu.FPR), f.i32(0), f.i32(128));
  f.call(initX87);
};

/** Loads registers from the stage, or clears them where they are not `present`. */
function describeLoad(f: Builder, present: I32, registers: number, offset: number): void {
  const bytes = f.let(registerBytes(f));
  const to = f.cpu.add(registers);
  f.if(
    present,
    () => f.copy(to, f.cpu.add(Cpu.STAGE + offset), bytes),
    () => f.fill(to, f.i32(0), bytes),
  );
}
const loadXmm = fn("loadXmm", ["i32"], undefined, (f, present) => describeLoad(f, present, Cpu.XMM, 160));
const loadYmm = fn("loadYmm", ["i32"], undefined, (f, present) =>
  describeLoad(f, present, Cpu.YMM_HIGH, YMM_OFFSET),
);

const badMxcsr = (f: Builder): I32 => stage32(f, 24).and(~MXCSR_MASK).ne(0);

/** FXSAVE: (address, wide). Bytes that the image does not define keep what memory holds. Test EVENT. */
export const fxsave = fn("fxsave", ["i64", "i32"], undefined, (f, va, wide) => {
  refuse(f, va.wrap().and(15), Vector.GP);
  f.call(moveArea, va, f.i32(AREA_BYTES), f.i32(0));
  returnOnEvent(f);
  f.call(stageX87, wide);
  stageMxcsr(f);
  f.call(stageXmm);
  f.call(moveArea, va, f.i32(AREA_BYTES), f.i32(1));
});

/** FXRSTOR: (address, wide). Test EVENT. */
export const fxrstor = fn("fxrstor", ["i64", "i32"], undefined, (f, va, wide) => {
  refuse(f, va.wrap().and(15), Vector.GP);
  f.call(moveArea, va, f.i32(AREA_BYTES), f.i32(0));
  returnOnEvent(f);
  refuse(f, badMxcsr(f), Vector.GP);
  f.call(loadX87, wide);
  set32(f, Cpu.MXCSR, stage32(f, 24));
  f.call(loadXmm, f.i32(1));
});

/**
 * XSAVE and XSAVEOPT: (address, requested features EDX:EAX, wide, 1 to leave out what is in its initial state). x87 and
 * SSE always count as in use, which the SDM allows (Vol. 1 sec. 13.6). Test EVENT.
 */
export const xsave = fn(
  "xsave",
  ["i64", "i64", "i32", "i32"],
  undefined,
  (f, va, requested, wide, optimize) => {
    refuse(f, va.wrap().and(63), Vector.GP);
    const features = f.let(requested.and(get64(f, Cpu.XCR0)).wrap());
    const used = f.let(features.and(avxInUse(f).or(X87 | SSE)));
    const written = f.let(optimize.select(used, features));
    const bytes = f.let(written.and(AVX).select(f.i32(AVX_BYTES), f.i32(XSAVE_BYTES)));
    f.call(moveArea, va, bytes, f.i32(0));
    returnOnEvent(f);
    f.if(features.and(X87), () => f.call(stageX87, wide));
    f.if(features.and(SSE | AVX), () => stageMxcsr(f));
    f.if(features.and(SSE), () => f.call(stageXmm));
    f.if(written.and(AVX), () =>
      f.copy(f.cpu.add(Cpu.STAGE + YMM_OFFSET), f.cpu.add(Cpu.YMM_HIGH), registerBytes(f)),
    );
    const kept = stage64(f, HEADER).and(features.u64().not());
    set64(f, Cpu.STAGE + HEADER, kept.or(used.u64()));
    f.call(moveArea, va, bytes, f.i32(1));
  },
);

/** XRSTOR, standard format only: (address, requested features, wide). Test EVENT. */
export const xrstor = fn("xrstor", ["i64", "i64", "i32"], undefined, (f, va, requested, wide) => {
  refuse(f, va.wrap().and(63), Vector.GP);
  const xcr0 = get64(f, Cpu.XCR0);
  const features = f.let(requested.and(xcr0).wrap());
  f.call(moveArea, va, f.i32(XSAVE_BYTES), f.i32(0));
  returnOnEvent(f);
  const held = f.let(stage64(f, HEADER));
  // XCOMP_BV and the reserved bytes behind it: zero in the standard format.
  const rest = stage64(f, HEADER + 8).or(stage64(f, HEADER + 16));
  refuse(f, held.and(xcr0.not()).ne(0).or(rest.ne(0)), Vector.GP);
  const hasMxcsr = f.let(features.and(SSE | AVX).ne(0));
  refuse(f, hasMxcsr.and(badMxcsr(f)), Vector.GP);
  // What follows the header is looked at only where it counts.
  f.if(features.and(held.wrap()).and(AVX), () => f.call(moveArea, va, f.i32(AVX_BYTES), f.i32(0)));
  returnOnEvent(f);
  f.if(features.and(X87), () =>
    f.if(
      held.wrap().and(X87),
      () => f.call(loadX87, wide),
      () => clearX87(f),
    ),
  );
  f.if(hasMxcsr, () => set32(f, Cpu.MXCSR, stage32(f, 24)));
  f.if(features.and(SSE), () => f.call(loadXmm, held.wrap().and(SSE)));
  f.if(features.and(AVX), () => f.call(loadYmm, held.wrap().and(AVX)));
});
