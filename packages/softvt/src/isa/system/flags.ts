import { readFlags, writeFlags } from "../../cpu/flags.ts";
import { Cpu, Shadow } from "../../cpu/layout.ts";
import { iopl, updateMode, v86Mode } from "../../cpu/mode.ts";
import { changeableFlags } from "../../cpu/return.ts";
import { get32, RFLAGS, set32, Vector } from "../../cpu/state.ts";
import type { I32 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { insn } from "../registry.ts";
import { pop, push } from "./common.ts";

/** RFLAGS as a whole and the interrupt flag (SDM Vol. 2 PUSHF, POPF, CLI, STI). */

/** 1 where CPL forbids I/O and the interrupt flag. VME and PVI are not offered: virtual-8086 mode wants IOPL 3. */
export const beyondIopl = (c: Insn): I32 => get32(c, Cpu.CPL).gtU(iopl(c));

const v86Refused = (c: Insn): I32 => v86Mode(c).and(iopl(c).ne(3));

insn("PUSHF", "9C", "", { sizes: [16, 32, 64], size64: "d64" }, (c) => {
  c.faultIf(v86Refused(c), Vector.GP);
  const flags = c.call<I32>(readFlags).and(~(RFLAGS.VM | RFLAGS.RF));
  push(c, flags.u64());
});

insn("POPF", "9D", "", { sizes: [16, 32, 64], size64: "d64", ends: true }, (c) => {
  c.faultIf(v86Refused(c), Vector.GP);
  const { value, drop } = pop(c);
  const mask = c.call<I32>(changeableFlags, c.i32(c.opsize / 8)).and(~RFLAGS.RF);
  const kept = get32(c, Cpu.RFLAGS)
    .and(mask.xor(-1))
    .and(~(RFLAGS.VIF | RFLAGS.VIP | RFLAGS.RF));
  c.call(writeFlags, value.wrap().and(mask).or(kept));
  drop();
  c.call(updateMode);
  c.resync();
});

insn("CLI", "FA", "", {}, (c) => {
  c.faultIf(beyondIopl(c), Vector.GP);
  set32(c, Cpu.RFLAGS, get32(c, Cpu.RFLAGS).and(~RFLAGS.IF));
});

insn("STI", "FB", "", { ends: true }, (c) => {
  c.faultIf(beyondIopl(c), Vector.GP);
  const flags = c.let(get32(c, Cpu.RFLAGS));
  set32(c, Cpu.RFLAGS, flags.or(RFLAGS.IF));
  // Interrupts stay off for one more instruction, so that STI; HLT and STI; RET cannot lose one.
  c.if(flags.and(RFLAGS.IF).eqz(), () => set32(c, Cpu.SHADOW, get32(c, Cpu.SHADOW).or(Shadow.STI)));
  c.resync();
});
