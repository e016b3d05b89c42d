import { Cpu } from "../../cpu/layout.ts";
import { CR0, get64, Vector } from "../../cpu/state.ts";
import { fxrstor, fxsave, xrstor, xsave } from "../../cpu/xsave.ts";
import type { Insn } from "../insn.ts";
import { insn } from "../registry.ts";

/** FXSAVE, FXRSTOR, XSAVE, XSAVEOPT and XRSTOR (SDM Vol. 2). XSAVEC and XSAVES are not offered: #UD. */

const SIZES = { sizes: [32, 64] } as const;

/** The area's address. Its first byte is checked against the segment here, all of it against the page tables later. */
const area = (c: Insn, bytes: number, write: boolean) => c.let(c.address(bytes * 8, write));

for (const [name, digit, fn, writes] of [
  ["FXSAVE", "/0", fxsave, true],
  ["FXRSTOR", "/1", fxrstor, false],
] as const)
  insn(name, `NP 0F AE ${digit}`, "M", { ...SIZES, feature: "fxsr" }, (c) => {
    const cr0 = get64(c, Cpu.CR0).wrap();
    c.faultIf(cr0.and(CR0.EM), Vector.UD);
    c.faultIf(cr0.and(CR0.TS), Vector.NM);
    c.call(fn, area(c, 512, writes), c.i32(c.opsize === 64 ? 1 : 0));
    c.leaveOnEvent();
  });

for (const [name, digit, feature] of [
  ["XSAVE", "/4", "xsave"],
  ["XRSTOR", "/5", "xsave"],
  ["XSAVEOPT", "/6", "xsaveopt"],
] as const)
  insn(name, `NP 0F AE ${digit}`, "M", { ...SIZES, feature }, (c) => {
    c.faultIf(get64(c, Cpu.CR4).bit(18).eqz(), Vector.UD);
    c.faultIf(get64(c, Cpu.CR0).wrap().and(CR0.TS), Vector.NM);
    const requested = c.let(c.readGpr(0, 32).or(c.readGpr(2, 32).shl(32)));
    const wide = c.i32(c.opsize === 64 ? 1 : 0);
    const va = area(c, 576, name !== "XRSTOR");
    if (name === "XRSTOR") c.call(xrstor, va, requested, wide);
    else c.call(xsave, va, requested, wide, c.i32(name === "XSAVEOPT" ? 1 : 0));
    c.leaveOnEvent();
  });
