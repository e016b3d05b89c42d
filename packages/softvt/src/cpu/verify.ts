import { fn, type I64 } from "../ir/builder.ts";
import { Cpu } from "./layout.ts";
import { Descriptor, descriptorAddress, isNull, rplOf } from "./segments.ts";
import { get32, set32, Vector } from "./state.ts";
import { longMode, returnOnEvent, systemRead } from "./system.ts";

/** System types that LAR knows: all TSSs, LDT, call and task gates (SDM Vol. 2 table 3-53). A bit each. */
const LAR_TYPES = 0x1a3e;
/** And LSL: TSSs and LDT, which have limits. */
const LSL_TYPES = 0x0a0e;
/** In IA-32e mode: LDT, 64-bit TSSs, call gate. */
const LAR_TYPES64 = 0x1a04;
const LSL_TYPES64 = 0x0a04;

/**
 * What LAR (`want` 0), LSL (1), VERR (2) and VERW (3) may see of `selector`: its descriptor, or 0 where they
 * clear ZF. EVENT is set only by a page fault.
 */
export const verify = fn("verify", ["i32", "i32"], "i64", (f, selector, want) => {
  f.if(isNull(selector), () => f.return(f.i64(0)));
  const address = f.call<I64>(descriptorAddress, selector, f.i32(8), f.i32(Vector.GP));
  // Past the table's end these answer with ZF, not with #GP.
  f.if(get32(f, Cpu.EVENT), () => {
    set32(f, Cpu.EVENT, 0);
    f.return(f.i64(0));
  });
  const raw = f.call<I64>(systemRead[64]!, address);
  returnOnEvent(f, f.i64(0));
  const type = Descriptor.type(raw);
  const dpl = Descriptor.dpl(raw);
  const conforming = type.and(0x1c).eq(0x1c);
  const denied = conforming.eqz().and(rplOf(selector).gtU(dpl).or(get32(f, Cpu.CPL).gtU(dpl)));
  f.if(denied, () => f.return(f.i64(0)));
  f.if(type.and(0x10).eqz(), () => {
    const long = longMode(f);
    const lar = long.select(f.i32(LAR_TYPES64), f.i32(LAR_TYPES));
    const lsl = long.select(f.i32(LSL_TYPES64), f.i32(LSL_TYPES));
    const known = want.eqz().select(lar, want.eq(1).select(lsl, f.i32(0)));
    f.if(known.shrU(type).and(1).eqz(), () => f.return(f.i64(0)));
  });
  const isCode = type.shrU(3).and(1);
  const second = type.shrU(1).and(1);
  // Data can be read, code where it is readable; data can be written where it is writable.
  f.if(want.eq(2).and(isCode).and(second.eqz()), () => f.return(f.i64(0)));
  f.if(want.eq(3).and(isCode.or(second.eqz())), () => f.return(f.i64(0)));
  f.return(raw);
});
