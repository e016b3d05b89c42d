import { fn, type I64 } from "../ir/builder.ts";
import { Cpu, Seg } from "./layout.ts";
import { accessOf, iopl, limitOf, v86Mode } from "./mode.ts";
import { get32, get64, Vector } from "./state.ts";
import { refuse, returnOnEvent, systemRead } from "./system.ts";

/**
 * #GP(0) unless the current privilege allows I/O to `bytes` ports from `port`: by IOPL, or by the I/O permission
 * bitmap of a 32- or 64-bit TSS (SDM Vol. 1 sec. 20.5.2).
 */
export const ioPermission = fn("ioPermission", ["i32", "i32"], undefined, (f, port, bytes) => {
  f.if(get32(f, Cpu.CPL).leU(iopl(f)).and(v86Mode(f).eqz()), () => f.return());
  const isTss32 = accessOf(f, Seg.TR).and(0x1001d).eq(9);
  const limit = limitOf(f, Seg.TR);
  refuse(f, isTss32.eqz().or(limit.ltU(0x67)), Vector.GP);
  const base = get64(f, Cpu.SEG_BASE + 8 * Seg.TR);
  const map = f.call<I64>(systemRead[16]!, base.add(0x66)).wrap();
  returnOnEvent(f);
  const at = f.let(map.add(port.shrU(3)));
  // Two bytes are read whatever the port, so both must be inside the TSS.
  refuse(f, at.add(1).gtU(limit), Vector.GP);
  const bits = f.call<I64>(systemRead[16]!, base.add(at.u64())).wrap();
  returnOnEvent(f);
  const wanted = f.i32(1).shl(bytes).sub(1);
  refuse(f, bits.shrU(port.and(7)).and(wanted).ne(0), Vector.GP);
});
