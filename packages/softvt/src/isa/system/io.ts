import { segmentAddress } from "../../cpu/address.ts";
import { Cpu, Event, gpr, Seg } from "../../cpu/layout.ts";
import { Access, commitReplay, probe, readMemory, replayed, writeMemory } from "../../cpu/memory.ts";
import { ioPermission } from "../../cpu/permission.ts";
import { get32, get64, RFLAGS, set32, set64 } from "../../cpu/state.ts";
import { LOW32 } from "../../cpu/system.ts";
import { PrefixBit } from "../../decode/decoder.ts";
import type { I32, I64 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { insn } from "../registry.ts";
import { finish } from "./common.ts";

/** Port I/O (SDM Vol. 1 ch. 20; Vol. 2 IN, OUT, INS, OUTS). Every access exits; string forms once an element. */

function exitForIo(c: Insn, port: I32, bytes: number, isIn: number, value: I64): void {
  set32(c, Cpu.EXIT_REASON, 30);
  set32(c, Cpu.EXIT_A, port);
  set32(c, Cpu.EXIT_B, bytes);
  set32(c, Cpu.EXIT_C, isIn);
  set32(c, Cpu.EXIT_D, value.wrap());
  set32(c, Cpu.EVENT, Event.EXIT_RETRY);
  c.leave();
}

function checkPermission(c: Insn, port: I32, bytes: number): void {
  c.call(ioPermission, port, c.i32(bytes));
  c.leaveOnEvent();
}

function input(encoding: string, operands: string, bits: (c: Insn) => number): void {
  insn("IN", encoding, operands, bits === byte ? {} : { sizes: [16, 32] }, (c) => {
    const port = c.let(
      c
        .read(1)
        .wrap()
        .and(operands.endsWith("DX") ? 0xffff : 0xff),
    );
    checkPermission(c, port, bits(c) / 8);
    replayed(
      c,
      (value) => c.writeGpr(0, bits(c), value),
      () => exitForIo(c, port, bits(c) / 8, 1, c.i64(0)),
    );
  });
}

function output(encoding: string, operands: string, bits: (c: Insn) => number): void {
  insn("OUT", encoding, operands, bits === byte ? {} : { sizes: [16, 32] }, (c) => {
    const port = c.let(
      c
        .read(0)
        .wrap()
        .and(operands.startsWith("DX") ? 0xffff : 0xff),
    );
    checkPermission(c, port, bits(c) / 8);
    replayed(
      c,
      () => {},
      () => exitForIo(c, port, bits(c) / 8, 0, c.readGpr(0, bits(c))),
    );
  });
}

const byte = (): number => 8;
const full = (c: Insn): number => c.opsize;

input("E4", "AL=,Ib", byte);
input("E5", "rAX=,Ib", full);
input("EC", "AL=,DX", byte);
input("ED", "rAX=,DX", full);
output("E6", "Ib,AL", byte);
output("E7", "Ib,rAX", full);
output("EE", "DX,AL", byte);
output("EF", "DX,rAX", full);

/** The mask of the address size in `d`: 16, 32 or 64 bits. */
function addressMask(c: Insn): I64 {
  const size = c.field("d").shrU(PrefixBit.ADDRESS_SHIFT).and(3);
  return c.let(size.eq(2).select(c.i64(-1), size.eq(1).select(c.i64(LOW32), c.i64(0xffff))));
}

/** Writes RCX, RSI or RDI under an address-size mask: 32 bits clear the upper half, 16 keep the rest. */
function writeMasked(c: Insn, register: number, mask: I64, value: I64): void {
  const kept = mask.eq(0xffff).select(get64(c, gpr(register)).and(mask.not()), c.i64(0));
  set64(c, gpr(register), kept.or(value.and(mask)));
}

const RCX = 1;
const RSI = 6;
const RDI = 7;

/**
 * One element of a string instruction, then the next by executing the instruction again: interrupts are
 * taken between elements, and what has been exchanged is never exchanged twice.
 */
function stringIo(name: string, encoding: string, isIn: boolean, bits: (c: Insn) => number): void {
  const options = bits === byte ? {} : ({ sizes: [16, 32] } as const);
  insn(name, encoding, "", { ...options, ends: true }, (c) => {
    const size = bits(c);
    const d = c.field("d");
    const repeats = c.let(d.and(PrefixBit.REP | PrefixBit.REPNE));
    const mask = addressMask(c);
    c.if(repeats.ne(0).and(get64(c, gpr(RCX)).and(mask).eqz()), () => {
      set64(c, Cpu.RIP, c.nextRip());
      finish(c);
    });
    const port = c.let(c.readGpr(2, 16).wrap());
    checkPermission(c, port, size / 8);
    const register = isIn ? RDI : RSI;
    const segment = isIn ? c.i32(Seg.ES) : d.shrU(PrefixBit.SEGMENT_SHIFT).and(7);
    const offset = c.let(get64(c, gpr(register)).and(mask));
    const va = c.let(c.call<I64>(segmentAddress, segment, offset, c.i32(size / 8), c.i32(isIn ? 1 : 0)));
    c.leaveOnEvent();
    const memory = { onEvent: (): void => c.leave() };
    const exchange = (value: I64): void =>
      replayed(
        c,
        (answer) => {
          if (isIn) writeMemory(c, size, va, answer, memory);
        },
        () => exitForIo(c, port, size / 8, isIn ? 1 : 0, value),
      );
    if (isIn) {
      // Both ends must be writable before the device is read: its value could not be read again.
      for (const at of size === 8 ? [0] : [0, size / 8 - 1])
        c.if(c.call(probe, va.add(at), c.i32(Access.WRITE), get32(c, Cpu.TLB)).eqz(), () => c.leave());
      exchange(c.i64(0));
    } else exchange(readMemory(c, size, va, memory));
    commitReplay(c);
    const down = get32(c, Cpu.RFLAGS).and(RFLAGS.DF).ne(0);
    const step = down.select(c.i64(-size / 8), c.i64(size / 8));
    writeMasked(c, register, mask, offset.add(step));
    c.if(
      repeats,
      () => {
        const left = c.let(get64(c, gpr(RCX)).sub(1).and(mask));
        writeMasked(c, RCX, mask, left);
        set64(c, Cpu.RIP, left.ne(0).select(c.thisRip(), c.nextRip()));
      },
      () => set64(c, Cpu.RIP, c.nextRip()),
    );
    finish(c);
  });
}

stringIo("INS", "6C", true, byte);
stringIo("INS", "6D", true, full);
stringIo("OUTS", "6E", false, byte);
stringIo("OUTS", "6F", false, full);
