import { Cpu } from "../cpu/layout.ts";
import { get32, raise, set32, Vector } from "../cpu/state.ts";
import { fn, type I32, type I64 } from "../ir/builder.ts";
import type { Insn } from "./insn.ts";

/** Raises the vector `off`: what SSE_OFF or MMX_OFF said. */
const raiseOff = fn("raiseOff", ["i32"], undefined, (f, off) => {
  f.if(
    off.eq(Vector.UD),
    () => raise(f, Vector.UD),
    () => raise(f, Vector.NM),
  );
});

function checkOff(c: Insn, field: number): void {
  const off = get32(c, field);
  c.unlikely(off, () => {
    c.call(raiseOff, off);
    c.leave();
  });
}

/** #UD where CR0.EM or not CR4.OSFXSR, #NM where CR0.TS (SDM Vol. 2A tables 2-18 to 2-22): first of all. */
export function sseCheck(c: Insn): void {
  checkOff(c, Cpu.SSE_OFF);
}

const FSW_ES = 0x80;

/** #MF where an unmasked x87 exception is pending. */
export function pendingCheck(c: Insn): void {
  c.faultIf(get32(c, Cpu.FSW).and(FSW_ES), Vector.MF);
}

/** #UD where CR0.EM, #NM where CR0.TS, #MF where an x87 exception is pending (SDM Vol. 3A sec. 13.1). */
export function mmxCheck(c: Insn): void {
  checkOff(c, Cpu.MMX_OFF);
  pendingCheck(c);
}

/**
 * What every MMX instruction does to the x87 state besides its result: TOP becomes 0 and all registers valid
 * (SDM Vol. 3A table 13-1). Comes after whatever may fault.
 */
export function mmxUsed(c: Insn): void {
  set32(c, Cpu.TOP, 0);
  set32(c, Cpu.FTW, 0);
}

/** Writes the MMX register in ModRM.reg (`a`) or ModRM.rm (`b`): exponent and sign become all ones. */
export function writeMmx(c: Insn, field: "a" | "b", value: I64): void {
  const register: I32 = c.cpu.add(c.field(field));
  c.store("i64.store", register, value, Cpu.FPR);
  c.store("i32.store16", register, c.i32(0xffff), Cpu.FPR + 8);
  mmxUsed(c);
}

/** The immediate byte, 0 to 255. */
export const imm8 = (c: Insn): I32 => c.immediateField().and(0xff);
