import { fn, type I64 } from "../ir/builder.ts";
import { commitFrame, frameHere, framePush } from "./frame.ts";
import { Cpu, Seg } from "./layout.ts";
import { limitOf, realMode, selectorOf, updateMode, v86Mode } from "./mode.ts";
import { checkTarget } from "./return.ts";
import {
  Descriptor,
  errorOf,
  fetchDescriptor,
  isNull,
  loadReal,
  markAccessed,
  rplOf,
  storeDescriptor,
} from "./segments.ts";
import { get32, set64, Vector } from "./state.ts";
import { longMode, refuse, returnOnEvent } from "./system.ts";

/**
 * Far jumps and calls (SDM Vol. 2 JMP, CALL; Vol. 3A sec. 5.8): direct to a code segment, through call gates, and
 * to tasks. They set `Cpu.RIP`, or EVENT where they fault, with nothing changed.
 */

/**
 * A code segment as the target of a direct far jump or call at the current privilege: its descriptor with the
 * accessed bit set. Test EVENT.
 */
const directTarget = fn("directTarget", ["i32", "i64", "i64"], "i64", (f, selector, raw, offset) => {
  const cpl = get32(f, Cpu.CPL);
  const dpl = Descriptor.dpl(raw);
  const denied = Descriptor.isConforming(raw).select(dpl.gtU(cpl), rplOf(selector).gtU(cpl).or(dpl.ne(cpl)));
  const both = longMode(f).and(Descriptor.isLong(raw)).and(Descriptor.isBig(raw));
  refuse(f, denied.or(both), Vector.GP, errorOf(selector), f.i64(0));
  refuse(f, Descriptor.absent(raw), Vector.NP, errorOf(selector), f.i64(0));
  f.call(checkTarget, raw, offset);
  returnOnEvent(f, f.i64(0));
  f.return(f.call<I64>(markAccessed, selector, raw));
});

/** JMP far to `selector`:`offset`; `rip` is that of the next instruction. */
export const farJump = fn("farJump", ["i32", "i64", "i64"], undefined, (f, selector, offset, _rip) => {
  f.if(realMode(f).or(v86Mode(f)), () => {
    refuse(f, offset.gtU(limitOf(f, Seg.CS).u64()), Vector.GP);
    f.call(loadReal, f.i32(Seg.CS), selector);
    set64(f, Cpu.RIP, offset);
    f.call(updateMode);
    f.return();
  });
  refuse(f, isNull(selector), Vector.GP);
  const raw = f.call<I64>(fetchDescriptor, selector, f.i32(Vector.GP));
  returnOnEvent(f);
  refuse(f, Descriptor.isCode(raw).eqz(), Vector.GP, errorOf(selector));
  const code = f.call<I64>(directTarget, selector, raw, offset);
  returnOnEvent(f);
  f.call(storeDescriptor, f.i32(Seg.CS), errorOf(selector).or(get32(f, Cpu.CPL)), code);
  set64(f, Cpu.RIP, offset);
  f.call(updateMode);
});

/** CALL far with operand size `bytes`; `rip` is the return address. */
export const farCall = fn(
  "farCall",
  ["i32", "i64", "i32", "i64"],
  undefined,
  (f, selector, offset, bytes, rip) => {
    const pushReturn = (): void => {
      f.call(frameHere);
      f.call(framePush, bytes, selectorOf(f, Seg.CS).u64());
      f.call(framePush, bytes, rip);
      returnOnEvent(f);
    };
    f.if(realMode(f).or(v86Mode(f)), () => {
      refuse(f, offset.gtU(limitOf(f, Seg.CS).u64()), Vector.GP);
      pushReturn();
      commitFrame(f);
      f.call(loadReal, f.i32(Seg.CS), selector);
      set64(f, Cpu.RIP, offset);
      f.call(updateMode);
      f.return();
    });
    refuse(f, isNull(selector), Vector.GP);
    const raw = f.call<I64>(fetchDescriptor, selector, f.i32(Vector.GP));
    returnOnEvent(f);
    refuse(f, Descriptor.isCode(raw).eqz(), Vector.GP, errorOf(selector));
    const code = f.call<I64>(directTarget, selector, raw, offset);
    returnOnEvent(f);
    pushReturn();
    commitFrame(f);
    f.call(storeDescriptor, f.i32(Seg.CS), errorOf(selector).or(get32(f, Cpu.CPL)), code);
    set64(f, Cpu.RIP, offset);
    f.call(updateMode);
  },
);
