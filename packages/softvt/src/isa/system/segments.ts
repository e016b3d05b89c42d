import { Cpu, Seg, Shadow } from "../../cpu/layout.ts";
import { loadSegment } from "../../cpu/segments.ts";
import { get32, set32, Vector } from "../../cpu/state.ts";
import type { I32, I64 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { insn } from "../registry.ts";
import { pop, push, readOperandAt, writeWord } from "./common.ts";

/** Segment register moves (SDM Vol. 2: MOV, PUSH, POP, LDS and its kin). */

/** A load of SS holds off interrupts and debug traps for one instruction (SDM Vol. 3A sec. 6.8.3). */
function shadowStack(c: Insn, seg: I32): void {
  c.if(seg.eq(Seg.SS), () => set32(c, Cpu.SHADOW, Shadow.MOV_SS));
}

function load(c: Insn, seg: I32, selector: I64): void {
  c.call(loadSegment, seg, selector.wrap().and(0xffff));
  c.leaveOnEvent();
}

const selector = (c: Insn, seg: I32): I64 =>
  c.load("i32.load", c.cpu.add(seg.shl(2)), Cpu.SEG_SELECTOR).u64();

insn("MOV", "8C", "Ev=,Sw", { flags: "none" }, (c) => {
  const seg = c.field("a");
  c.faultIf(seg.gtU(Seg.GS), Vector.UD);
  writeWord(c, 0, selector(c, seg));
});

insn("MOV", "8E", "Sw,Ew", { ends: true }, (c) => {
  const seg = c.field("a");
  c.faultIf(seg.gtU(Seg.GS).or(seg.eq(Seg.CS)), Vector.UD);
  load(c, seg, c.read(1));
  shadowStack(c, seg);
  c.resync();
});

function pushSegment(encoding: string, seg: number, no64: boolean): void {
  const options = no64
    ? ({ mode: "no64", sizes: [16, 32] } as const)
    : ({ sizes: [16, 32, 64], size64: "d64" } as const);
  insn("PUSH", encoding, "", options, (c) => {
    // Of a 32-bit slot recent processors write the low half only.
    push(c, get32(c, Cpu.SEG_SELECTOR + 4 * seg).u64(), c.opsize === 32 ? 16 : c.opsize);
  });
}

function popSegment(encoding: string, seg: number, no64: boolean): void {
  const options = no64
    ? ({ mode: "no64", sizes: [16, 32] } as const)
    : ({ sizes: [16, 32, 64], size64: "d64" } as const);
  insn("POP", encoding, "", { ...options, ends: true }, (c) => {
    const { value, drop } = pop(c);
    load(c, c.i32(seg), value);
    drop();
    shadowStack(c, c.i32(seg));
    c.resync();
  });
}

pushSegment("06", Seg.ES, true);
pushSegment("0E", Seg.CS, true);
pushSegment("16", Seg.SS, true);
pushSegment("1E", Seg.DS, true);
pushSegment("0F A0", Seg.FS, false);
pushSegment("0F A8", Seg.GS, false);
popSegment("07", Seg.ES, true);
popSegment("17", Seg.SS, true);
popSegment("1F", Seg.DS, true);
popSegment("0F A1", Seg.FS, false);
popSegment("0F A9", Seg.GS, false);

function loadPointer(name: string, encoding: string, seg: number, no64: boolean): void {
  insn(name, encoding, "Gv=,Mp", { ends: true, ...(no64 ? { mode: "no64" } : {}) }, (c) => {
    const va = c.let(c.address(c.opsize + 16));
    const offset = readOperandAt(c, c.opsize, va);
    const value = readOperandAt(c, 16, va.add(c.opsize / 8));
    load(c, c.i32(seg), value);
    c.write(0, offset);
    c.resync();
  });
}

loadPointer("LES", "C4", Seg.ES, true);
loadPointer("LDS", "C5", Seg.DS, true);
loadPointer("LSS", "0F B2", Seg.SS, false);
loadPointer("LFS", "0F B4", Seg.FS, false);
loadPointer("LGS", "0F B5", Seg.GS, false);
