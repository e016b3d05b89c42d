import { Cpu, Mode } from "../../cpu/layout.ts";
import { get32, get64, set32, set64 } from "../../cpu/state.ts";
import { moveArea } from "../../cpu/xsave.ts";
import {
  fullTags,
  initX87,
  loadControl,
  loadStatus,
  loadTags,
  statusWord,
  updateSummary,
} from "../../fpu/status.ts";
import { type Builder, fn, type I32, type I64 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { insn } from "../registry.ts";
import { deviceCheck, x87Check } from "./common.ts";

/*
 * The environment in memory (SDM Vol. 1 fig. 8-9 to 8-12), in words of 16 or 32 bits by operand size:
 *
 *   word  protected and 64-bit mode        real and virtual-8086 mode
 *   0     FCW                              FCW
 *   1     FSW                              FSW
 *   2     FTW                              FTW
 *   3     FIP                              FIP, low 16 bits
 *   4     FCS, FOP in the upper half       FIP's further bits from bit 12 on, FOP
 *   5     FDP                              FDP, low 16 bits
 *   6     FDS                              FDP's further bits from bit 12 on
 *
 * FOP is there in the 32-bit format of protected mode and in both of real mode. Upper halves that hold nothing
 * are all ones. FNSAVE and FRSTOR have ST(0) to ST(7) behind it, ten bytes each. Areas go through Cpu.STAGE as
 * those of FXSAVE do.
 */

const RESERVED = 0xffff_0000;

const isReal = (f: Builder): I32 => get32(f, Cpu.MODE).and(Mode.REAL).ne(0);

/** (1 for the 32-bit format) → the environment is in the stage. */
const stageEnvironment = fn("x87StageEnvironment", ["i32"], undefined, (f, wide) => {
  const real = f.let(isReal(f));
  const fip = f.let(get64(f, Cpu.FIP).wrap());
  const fdp = f.let(get64(f, Cpu.FDP).wrap());
  const fop = f.let(get32(f, Cpu.FOP).and(0x7ff));
  const tags = f.call<I32>(fullTags);
  const real4 = fip.shrU(4).and(0x0fff_f000).or(fop);
  const real6 = fdp.shrU(4).and(0x0fff_f000);
  const protected4 = get32(f, Cpu.FCS).or(fop.shl(16));
  const words: I32[] = [
    get32(f, Cpu.FCW).or(RESERVED),
    statusWord(f).or(RESERVED),
    tags.or(RESERVED),
    real.select(fip.or(RESERVED), fip),
    real.select(real4, protected4),
    real.select(fdp.or(RESERVED), fdp),
    real.select(real6, get32(f, Cpu.FDS).or(RESERVED)),
  ];
  f.if(
    wide,
    () => {
      for (const [i, word] of words.entries()) set32(f, Cpu.STAGE + 4 * i, word);
    },
    () => {
      for (const [i, word] of words.entries()) f.store("i32.store16", f.cpu, word, Cpu.STAGE + 2 * i);
    },
  );
});

/** Takes over the environment from the stage. */
const loadEnvironment = fn("x87LoadEnvironment", ["i32"], undefined, (f, wide) => {
  const real = f.let(isReal(f));
  const word = (i: number): I32 =>
    f.let(
      wide.select(
        f.load("i32.load", f.cpu, Cpu.STAGE + 4 * i),
        f.load("i32.load16_u", f.cpu, Cpu.STAGE + 2 * i),
      ),
    );
  const low = (x: I32): I32 => x.and(0xffff);
  f.call(loadControl, low(word(0)));
  f.call(loadStatus, low(word(1)));
  f.call(loadTags, low(word(2)));
  const [w3, w4, w5, w6] = [word(3), word(4), word(5), word(6)];
  const further = (x: I32): I32 => x.and(0x0fff_f000).shl(4);
  set64(f, Cpu.FIP, real.select(low(w3).or(further(w4)), w3).u64());
  set64(f, Cpu.FDP, real.select(low(w5).or(further(w6)), w5).u64());
  set32(f, Cpu.FCS, real.select(f.i32(0), low(w4)));
  set32(f, Cpu.FDS, real.select(f.i32(0), low(w6)));
  const opcode = real.select(w4, wide.select(w4.shrU(16), f.i32(0)));
  set32(f, Cpu.FOP, opcode.and(0x7ff));
});

/** (offset in the stage, 1 to load): ST(0) to ST(7). */
const moveRegisters = fn("x87MoveRegisters", ["i32", "i32"], undefined, (f, offset, load) => {
  for (let i = 0; i < 8; i++) {
    const at = f.cpu.add(offset).add(10 * i);
    const register = f.cpu.add(get32(f, Cpu.TOP).add(i).and(7).shl(4));
    f.if(
      load,
      () => {
        f.store("i64.store", register, f.load("i64.load", at, Cpu.STAGE), Cpu.FPR);
        f.store("i64.store", register, f.load("i64.load16_u", at, Cpu.STAGE + 8), Cpu.FPR + 8);
      },
      () => {
        f.store("i64.store", at, f.load("i64.load", register, Cpu.FPR), Cpu.STAGE);
        f.store("i32.store16", at, f.load("i32.load16_u", register, Cpu.FPR + 8), Cpu.STAGE + 8);
      },
    );
  }
});

const SIZES = { sizes: [16, 32] } as const;
const environmentBytes = (c: Insn): number => (c.opsize === 16 ? 14 : 28);
const wide = (c: Insn): I32 => c.i32(c.opsize === 16 ? 0 : 1);

function transfer(c: Insn, bytes: number, write: boolean, va: I64): void {
  c.call(moveArea, va, c.i32(bytes), c.i32(write ? 1 : 0));
  c.leaveOnEvent();
}

insn("FNSTENV", "D9 /6", "M", { ...SIZES, feature: "fpu" }, (c) => {
  deviceCheck(c);
  const bytes = environmentBytes(c);
  const va = c.let(c.address(8 * bytes, true));
  c.call(stageEnvironment, wide(c));
  transfer(c, bytes, true, va);
  set32(c, Cpu.FCW, get32(c, Cpu.FCW).or(0x3f));
  c.call(updateSummary);
});

insn("FNSAVE", "DD /6", "M", { ...SIZES, feature: "fpu" }, (c) => {
  deviceCheck(c);
  const bytes = environmentBytes(c);
  const va = c.let(c.address(8 * (bytes + 80), true));
  c.call(stageEnvironment, wide(c));
  c.call(moveRegisters, c.i32(bytes), c.i32(0));
  transfer(c, bytes + 80, true, va);
  c.call(initX87);
});

insn("FLDENV", "D9 /4", "M", { ...SIZES, feature: "fpu" }, (c) => {
  x87Check(c);
  const bytes = environmentBytes(c);
  transfer(c, bytes, false, c.let(c.address(8 * bytes)));
  c.call(loadEnvironment, wide(c));
});

insn("FRSTOR", "DD /4", "M", { ...SIZES, feature: "fpu" }, (c) => {
  x87Check(c);
  const bytes = environmentBytes(c);
  transfer(c, bytes + 80, false, c.let(c.address(8 * (bytes + 80))));
  c.call(loadEnvironment, wide(c));
  c.call(moveRegisters, c.i32(bytes), c.i32(1));
});
