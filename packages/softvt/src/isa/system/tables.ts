import { arithmeticFlags, setExplicit } from "../../cpu/flags.ts";
import { Cpu, Seg } from "../../cpu/layout.ts";
import { loadLdtr, loadTr } from "../../cpu/segments.ts";
import { get32, get64, set32, set64, Vector } from "../../cpu/state.ts";
import { nonCanonical } from "../../cpu/system.ts";
import { verify } from "../../cpu/verify.ts";
import type { I32, I64 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { insn } from "../registry.ts";
import { checkUmip, readOperandAt, writeOperandAt, writeWord } from "./common.ts";

/** Descriptor-table registers and the instructions that look at descriptors (SDM Vol. 2 LGDT to VERW). */

const SIZES = { sizes: [16, 32, 64], size64: "f64" } as const;

function store(name: string, digit: string, base: number, limit: number): void {
  insn(name, `0F 01 ${digit}`, "M", SIZES, (c) => {
    checkUmip(c);
    const bits = c.opsize === 64 ? 64 : 32;
    const va = c.let(c.address(16 + bits, true));
    writeOperandAt(c, 16, va, get32(c, limit).u64());
    writeOperandAt(c, bits, va.add(2), get64(c, base));
  });
}

function load(name: string, digit: string, base: number, limit: number): void {
  insn(name, `0F 01 ${digit}`, "M", SIZES, (c) => {
    c.requireCpl0();
    const bits = c.opsize === 64 ? 64 : 32;
    const va = c.let(c.address(16 + bits));
    const size = readOperandAt(c, 16, va);
    const address = c.let(readOperandAt(c, bits, va.add(2)));
    if (bits === 64) c.faultIf(nonCanonical(address), Vector.GP);
    // Operand size 16 loads a 24-bit base.
    set64(c, base, c.opsize === 16 ? address.and(0xff_ffff) : address);
    set32(c, limit, size.wrap());
  });
}

store("SGDT", "/0", Cpu.GDT_BASE, Cpu.GDT_LIMIT);
store("SIDT", "/1", Cpu.IDT_BASE, Cpu.IDT_LIMIT);
load("LGDT", "/2", Cpu.GDT_BASE, Cpu.GDT_LIMIT);
load("LIDT", "/3", Cpu.IDT_BASE, Cpu.IDT_LIMIT);

for (const [name, digit, seg] of [
  ["SLDT", "/0", Seg.LDTR],
  ["STR", "/1", Seg.TR],
] as const)
  insn(name, `0F 00 ${digit}`, "Ev=", { protectedOnly: true }, (c) => {
    checkUmip(c);
    writeWord(c, 0, get32(c, Cpu.SEG_SELECTOR + 4 * seg).u64());
  });

for (const [name, digit, fn] of [
  ["LLDT", "/2", loadLdtr],
  ["LTR", "/3", loadTr],
] as const)
  insn(name, `0F 00 ${digit}`, "Ew", { protectedOnly: true }, (c) => {
    c.requireCpl0();
    c.call(fn, c.read(0).wrap());
    c.leaveOnEvent();
  });

/** ZF takes `value`, the other flags stay. */
export function setZero(c: Insn, value: I32): void {
  const flags = c.call<I32>(arithmeticFlags);
  setExplicit(c, flags.and(~0x40).or(value.shl(6)));
}

insn("LAR", "0F 02", "Gv=,Ew", { protectedOnly: true }, (c) => {
  const selector = c.read(1).wrap();
  const raw = c.let(c.call<I64>(verify, selector, c.i32(0)));
  c.leaveOnEvent();
  c.if(raw.ne(0), () => c.write(0, raw.shrU(32).and(0xf0_ff00)));
  setZero(c, raw.ne(0));
});

insn("LSL", "0F 03", "Gv=,Ew", { protectedOnly: true }, (c) => {
  const selector = c.read(1).wrap();
  const raw = c.let(c.call<I64>(verify, selector, c.i32(1)));
  c.leaveOnEvent();
  const limit = raw.wrap().and(0xffff).or(raw.shrU(32).wrap().and(0xf_0000));
  c.if(raw.ne(0), () => c.write(0, raw.bit(55).select(limit.shl(12).or(0xfff), limit).u64()));
  setZero(c, raw.ne(0));
});

for (const [name, digit, want] of [
  ["VERR", "/4", 2],
  ["VERW", "/5", 3],
] as const)
  insn(name, `0F 00 ${digit}`, "Ew", { protectedOnly: true }, (c) => {
    const raw = c.call<I64>(verify, c.read(0).wrap(), c.i32(want));
    c.leaveOnEvent();
    setZero(c, raw.ne(0));
  });

insn("ARPL", "63", "Ew+,Gw", { mode: "no64", protectedOnly: true }, (c) => {
  const wanted = c.let(c.read(1).and(3));
  const raised = c.variable("i32", c.i32(0));
  c.modify(0, (old) => {
    const lower = old.and(3).ltU(wanted);
    raised.set(lower);
    return lower.select(old.and(~3n).or(wanted), old);
  });
  setZero(c, raised.get());
});
