import { type Builder, fn, type I32, type I64 } from "../ir/builder.ts";
import { stackMask } from "./address.ts";
import { readFlags, writeFlags } from "./flags.ts";
import { setStackPointer, stackPeek } from "./frame.ts";
import { Cpu, gpr, Mode, Seg } from "./layout.ts";
import { iopl, limitOf, realMode, updateMode, v86Mode } from "./mode.ts";
import {
  checkStackSegment,
  Descriptor,
  dropPrivilegedSegments,
  errorOf,
  fetchDescriptor,
  isNull,
  loadReal,
  markAccessed,
  rplOf,
  storeDescriptor,
  storeNull,
  storeSegment,
} from "./segments.ts";
import { get32, get64, RFLAGS, set32, set64, Vector } from "./state.ts";
import { LOW32, longMode, nonCanonical, refuse, returnOnEvent } from "./system.ts";
import { returnFromTask } from "./task.ts";

/**
 * Far returns and interrupt returns (SDM Vol. 2 RET, IRET). They set `Cpu.RIP`, or EVENT where they fault,
 * with nothing changed.
 */

/** 1 while code is 64-bit. */
export const code64 = (f: Builder): I32 => get32(f, Cpu.MODE).and(Mode.CODE_MASK).eq(Mode.CODE64);

/** #GP(0) where `rip` cannot be branched to in the code segment `raw`: beyond the limit, or not canonical. */
export const checkTarget = fn("checkTarget", ["i64", "i64"], undefined, (f, raw, rip) => {
  f.if(
    longMode(f).and(Descriptor.isLong(raw)),
    () => refuse(f, nonCanonical(rip), Vector.GP),
    () => refuse(f, rip.gtU(Descriptor.limit(raw).u64()), Vector.GP),
  );
});

/** RFLAGS bits that a return or POPF at the current privilege may change, of an image of `bytes` bytes. */
export const changeableFlags = fn("changeableFlags", ["i32"], "i32", (f, bytes) => {
  const low = RFLAGS.CF | RFLAGS.PF | RFLAGS.AF | RFLAGS.ZF | RFLAGS.SF | RFLAGS.TF | RFLAGS.DF | RFLAGS.OF;
  const mask = f.variable("i32", f.i32(low | RFLAGS.NT));
  const cpl = get32(f, Cpu.CPL);
  f.if(bytes.ne(2), () => mask.set(mask.get().or(RFLAGS.RF | RFLAGS.AC | RFLAGS.ID)));
  f.if(cpl.leU(iopl(f)), () => mask.set(mask.get().or(RFLAGS.IF)));
  f.if(cpl.eqz(), () => mask.set(mask.get().or(RFLAGS.IOPL)));
  f.return(mask.get());
});

/** RFLAGS takes the bits of `image` under `mask`. */
const mergeFlags = (f: Builder, image: I32, mask: I32): void => {
  // An image holds all arithmetic flags, so the lazy ones need not be computed.
  f.call(writeFlags, image.and(mask).or(get32(f, Cpu.RFLAGS).and(mask.xor(-1))));
};

/**
 * The code segment that a far return or IRET goes back to, checked: its descriptor with the accessed bit set.
 * Test EVENT.
 */
const returnSegment = fn("returnSegment", ["i32"], "i64", (f, selector) => {
  refuse(f, isNull(selector), Vector.GP, 0, f.i64(0));
  const raw = f.call<I64>(fetchDescriptor, selector, f.i32(Vector.GP));
  returnOnEvent(f, f.i64(0));
  const rpl = rplOf(selector);
  const dpl = Descriptor.dpl(raw);
  const wrongLevel = Descriptor.isConforming(raw).select(dpl.gtU(rpl), dpl.ne(rpl));
  const both = longMode(f).and(Descriptor.isLong(raw)).and(Descriptor.isBig(raw));
  const bad = Descriptor.isCode(raw)
    .eqz()
    .or(rpl.ltU(get32(f, Cpu.CPL)))
    .or(wrongLevel)
    .or(both);
  refuse(f, bad, Vector.GP, errorOf(selector), f.i64(0));
  f.unlikely(Descriptor.absent(raw), () => {
    refuse(f, f.i32(1), Vector.NP, errorOf(selector), f.i64(0));
  });
  f.return(f.call<I64>(markAccessed, selector, raw));
});

/**
 * The stack segment that comes with a return to privilege `cpl`: its descriptor, or 0 for a null selector,
 * which 64-bit code below CPL 3 may have. Test EVENT.
 */
const returnStack = fn("returnStack", ["i32", "i32", "i32"], "i64", (f, selector, cpl, to64) => {
  f.if(isNull(selector).and(to64).and(cpl.ne(3)), () => {
    refuse(f, rplOf(selector).ne(cpl), Vector.GP, errorOf(selector), f.i64(0));
    f.return(f.i64(0));
  });
  f.return(f.call<I64>(checkStackSegment, selector, cpl, f.i32(Vector.GP)));
});

/** Completes a return in protected mode: CS, CPL and, where the stack changes, SS:RSP. */
const completeReturn = fn(
  "completeReturn",
  ["i32", "i64", "i32", "i64", "i64"],
  undefined,
  (f, selector, code, ss, stack, sp) => {
    const outer = f.let(rplOf(selector).gtU(get32(f, Cpu.CPL)));
    const cpl = rplOf(selector);
    f.if(
      stack.eqz(),
      () => storeNull(f, Seg.SS, ss, cpl),
      () => f.call(storeDescriptor, f.i32(Seg.SS), ss, stack),
    );
    f.call(storeDescriptor, f.i32(Seg.CS), selector, code);
    set32(f, Cpu.CPL, cpl);
    f.call(updateMode);
    f.call(setStackPointer, sp, stackMask(f));
    f.if(outer, () => f.call(dropPrivilegedSegments));
  },
);

/** RET far with operand size `bytes` (2, 4 or 8), releasing `release` bytes of parameters. */
export const farReturn = fn("farReturn", ["i32", "i32"], undefined, (f, bytes, release) => {
  const rip = f.call<I64>(stackPeek, f.i32(0), bytes);
  const selector = f.let(f.call<I64>(stackPeek, bytes, bytes).wrap().and(0xffff));
  returnOnEvent(f);
  const popped = bytes.shl(1).add(release);
  const rsp = get64(f, gpr(4));
  f.if(realMode(f).or(v86Mode(f)), () => {
    refuse(f, rip.gtU(limitOf(f, Seg.CS).u64()), Vector.GP);
    f.call(loadReal, f.i32(Seg.CS), selector);
    f.call(setStackPointer, rsp.add(popped.u64()), stackMask(f));
    set64(f, Cpu.RIP, rip);
    f.call(updateMode);
    f.return();
  });
  const code = f.call<I64>(returnSegment, selector);
  returnOnEvent(f);
  f.call(checkTarget, code, rip);
  returnOnEvent(f);
  f.if(
    rplOf(selector).eq(get32(f, Cpu.CPL)),
    () => {
      f.call(storeDescriptor, f.i32(Seg.CS), selector, code);
      f.call(setStackPointer, rsp.add(popped.u64()), stackMask(f));
      f.call(updateMode);
    },
    () => {
      const sp = f.call<I64>(stackPeek, popped, bytes);
      const ss = f.let(f.call<I64>(stackPeek, popped.add(bytes), bytes).wrap().and(0xffff));
      returnOnEvent(f);
      const to64 = longMode(f).and(Descriptor.isLong(code));
      const stack = f.call<I64>(returnStack, ss, rplOf(selector), to64);
      returnOnEvent(f);
      // The parameters are released from the outer stack too.
      f.call(completeReturn, selector, code, ss, stack, sp.add(release.u64()));
    },
  );
  set64(f, Cpu.RIP, rip);
});

const returnReal = fn("returnReal", ["i32", "i64", "i32", "i32"], undefined, (f, bytes, rip, cs, image) => {
  refuse(f, rip.gtU(limitOf(f, Seg.CS).u64()), Vector.GP);
  const all = bytes.eq(2).select(f.i32(0x7fd5), f.i32(0x25_7fd5));
  // IRET in virtual-8086 mode leaves IOPL alone.
  const mask = v86Mode(f).select(all.and(~RFLAGS.IOPL), all);
  mergeFlags(f, image, mask);
  f.call(loadReal, f.i32(Seg.CS), cs);
  const rsp = get64(f, gpr(4));
  f.call(setStackPointer, rsp.add(bytes.mul(3).u64()), stackMask(f));
  set64(f, Cpu.RIP, rip.and(LOW32));
  f.call(updateMode);
});

/** To virtual-8086 mode: nine doublewords on the stack. */
const returnToV86 = fn("returnToV86", ["i64", "i32", "i32"], undefined, (f, rip, cs, image) => {
  const item = (index: number): I64 => f.let(f.call<I64>(stackPeek, f.i32(4 * index), f.i32(4)));
  const esp = item(3);
  const selectors = [Seg.SS, Seg.ES, Seg.DS, Seg.FS, Seg.GS].map((seg, i) => ({
    seg,
    selector: item(4 + i)
      .wrap()
      .and(0xffff),
  }));
  returnOnEvent(f);
  refuse(f, rip.gtU(0xffff), Vector.GP);
  f.call(writeFlags, image.and(0x3f_7fd5));
  set32(f, Cpu.CPL, 3);
  for (const { seg, selector } of [{ seg: Seg.CS, selector: cs }, ...selectors])
    f.call(storeSegment, f.i32(seg), selector, selector.u64().shl(4), f.i32(0xffff), f.i32(0xf3));
  set64(f, gpr(4), esp);
  set64(f, Cpu.RIP, rip);
  f.call(updateMode);
});

/** IRET with operand size `bytes` (2, 4 or 8); `next` is the RIP behind it, which a task switch saves. */
export const interruptReturn = fn("interruptReturn", ["i32", "i64"], undefined, (f, bytes, next) => {
  const flags = get32(f, Cpu.RFLAGS);
  const real = f.let(realMode(f));
  const v86 = f.let(v86Mode(f));
  f.if(real.eqz().and(v86.eqz()).and(flags.and(RFLAGS.NT).ne(0)), () => {
    refuse(f, longMode(f), Vector.GP);
    f.call(returnFromTask, f.call<I32>(readFlags), next);
    returnOnEvent(f);
    set32(f, Cpu.NMI_BLOCKED, 0);
    f.return();
  });
  refuse(f, v86.and(iopl(f).ne(3)), Vector.GP);
  const rip = f.call<I64>(stackPeek, f.i32(0), bytes);
  const selector = f.let(f.call<I64>(stackPeek, bytes, bytes).wrap().and(0xffff));
  const image = f.let(f.call<I64>(stackPeek, bytes.shl(1), bytes).wrap());
  returnOnEvent(f);
  f.if(real.or(v86), () => {
    f.call(returnReal, bytes, rip, selector, image);
    returnOnEvent(f);
    set32(f, Cpu.NMI_BLOCKED, 0);
    f.return();
  });
  const cpl = get32(f, Cpu.CPL);
  const toV86 = bytes.eq(4).and(image.shrU(17)).and(cpl.eqz()).and(longMode(f).eqz());
  f.if(toV86, () => {
    f.call(returnToV86, rip, selector, image);
    returnOnEvent(f);
    set32(f, Cpu.NMI_BLOCKED, 0);
    f.return();
  });
  const code = f.call<I64>(returnSegment, selector);
  returnOnEvent(f);
  f.call(checkTarget, code, rip);
  returnOnEvent(f);
  // RF matters only while instruction breakpoints are looked for, and the next instruction would clear it.
  const watched = get64(f, Cpu.DR + 7 * 8)
    .and(0xff)
    .ne(0);
  const allowed = f.call(changeableFlags, bytes);
  const mask = f.let(watched.select(allowed, allowed.and(~RFLAGS.RF)));
  f.if(
    rplOf(selector).gtU(cpl).or(code64(f)),
    () => {
      const sp = f.call<I64>(stackPeek, bytes.mul(3), bytes);
      const ss = f.let(f.call<I64>(stackPeek, bytes.shl(2), bytes).wrap().and(0xffff));
      returnOnEvent(f);
      const to64 = longMode(f).and(Descriptor.isLong(code));
      const stack = f.call<I64>(returnStack, ss, rplOf(selector), to64);
      returnOnEvent(f);
      mergeFlags(f, image, mask);
      f.call(completeReturn, selector, code, ss, stack, sp);
    },
    () => {
      mergeFlags(f, image, mask);
      f.call(storeDescriptor, f.i32(Seg.CS), selector, code);
      const rsp = get64(f, gpr(4));
      f.call(setStackPointer, rsp.add(bytes.mul(3).u64()), stackMask(f));
      f.call(updateMode);
    },
  );
  set64(f, Cpu.RIP, rip);
  set32(f, Cpu.NMI_BLOCKED, 0);
});
