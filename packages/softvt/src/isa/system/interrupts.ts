import { overflowFlag, readFlags } from "../../cpu/flags.ts";
import { enterHandler } from "../../cpu/interrupts.ts";
import { Cpu } from "../../cpu/layout.ts";
import { iopl, v86Mode } from "../../cpu/mode.ts";
import { interruptReturn } from "../../cpu/return.ts";
import { get32, RFLAGS, set32, Vector } from "../../cpu/state.ts";
import type { I32 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { insn } from "../registry.ts";
import { finishTransfer, visible } from "./common.ts";

/** Software interrupts and IRET (SDM Vol. 2 INT n, IRET). A fault on the way is a fault of the instruction. */

function interrupt(c: Insn, vector: I32, software: number): void {
  const flags = c.call<I32>(readFlags).and(~RFLAGS.RF).u64();
  c.call(enterHandler, vector, c.i32(0), c.i32(0), c.i32(software), flags, visible(c, c.nextRip()));
}

insn("INT3", "CC", "", { ends: true }, (c) => {
  interrupt(c, c.i32(Vector.BP), 1);
  finishTransfer(c);
});

insn("INT", "CD", "Ib", { ends: true }, (c) => {
  c.faultIf(v86Mode(c).and(iopl(c).ne(3)), Vector.GP);
  interrupt(c, c.field("imm").and(0xff), 1);
  finishTransfer(c);
});

insn("INTO", "CE", "", { ends: true, mode: "no64" }, (c) => {
  c.if(
    c.call<I32>(overflowFlag),
    () => {
      interrupt(c, c.i32(Vector.OF), 1);
      finishTransfer(c);
    },
    () => c.resync(),
  );
});

insn("INT1", "F1", "", { ends: true }, (c) => {
  // No privilege check, and selector error codes carry EXT: it stands for a debug exception.
  interrupt(c, c.i32(Vector.DB), 0);
  c.unlikely(get32(c, Cpu.EVENT), () => {
    const vector = get32(c, Cpu.EXC_VECTOR);
    const ext = vector.geU(Vector.TS).and(vector.leU(Vector.GP));
    set32(c, Cpu.EXC_ERROR, get32(c, Cpu.EXC_ERROR).or(ext));
  });
  finishTransfer(c);
});

insn("IRET", "CF", "", { ends: true, sizes: [16, 32, 64] }, (c) => {
  c.call(interruptReturn, c.i32(c.opsize / 8), visible(c, c.nextRip()));
  finishTransfer(c);
});
