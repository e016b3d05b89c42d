import { fn } from "../ir/builder.ts";
import { Cpu } from "./layout.ts";
import { CR0, CR4, get64, set32, Vector, XCR0 } from "./state.ts";

/**
 * Brings SSE_OFF, AVX_OFF, MMX_OFF and X87_OFF up to date: to be called after each write of CR0, CR4 or XCR0, by
 * whatever means (SDM Vol. 3A sec. 2.5, table 2-2, and sec. 14.1; of AVX Vol. 2A sec. 2.4, where CR0.EM plays no part).
 */
export const updateSse = fn("updateSse", [], undefined, (f) => {
  const cr0 = get64(f, Cpu.CR0).wrap();
  const emulated = cr0.and(CR0.EM).ne(0);
  const switched = cr0.and(CR0.TS).ne(0);
  const noSse = emulated.or(get64(f, Cpu.CR4).wrap().and(CR4.OSFXSR).eqz());
  const whenSwitched = switched.select(f.i32(Vector.NM), f.i32(0));
  set32(f, Cpu.SSE_OFF, noSse.select(f.i32(Vector.UD), whenSwitched));
  const avxState = get64(f, Cpu.XCR0)
    .wrap()
    .and(XCR0.SSE | XCR0.AVX)
    .eq(XCR0.SSE | XCR0.AVX);
  const avx = avxState.and(get64(f, Cpu.CR4).wrap().and(CR4.OSXSAVE).ne(0));
  set32(f, Cpu.AVX_OFF, avx.select(whenSwitched, f.i32(Vector.UD)));
  set32(f, Cpu.MMX_OFF, emulated.select(f.i32(Vector.UD), whenSwitched));
  set32(f, Cpu.X87_OFF, emulated.or(switched).select(f.i32(Vector.NM), f.i32(0)));
});
