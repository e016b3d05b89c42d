import { stackMask } from "../../cpu/address.ts";
import { arithmeticFlags, condition, setExplicit } from "../../cpu/flags.ts";
import { Cpu, Gpr, Seg } from "../../cpu/layout.ts";
import { get64 } from "../../cpu/state.ts";
import type { I32, I64 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { insn } from "../registry.ts";

/** Data movement (SDM Vol. 1 sec. 7.3.1): MOV and its kin, XCHG, the stack, conditional moves, conversions. */

const mov = (c: Insn): void => c.write(0, c.read(1));
const MOV: readonly [string, string][] = [
  ["88", "Eb=,Gb"],
  ["89", "Ev=,Gv"],
  ["8A", "Gb=,Eb"],
  ["8B", "Gv=,Ev"],
  ["A0", "AL=,Ob"],
  ["A1", "rAX=,Ov"],
  ["A2", "Ob=,AL"],
  ["A3", "Ov=,rAX"],
  ["B0 +r", "Zb=,Ib"],
  ["B8 +r", "Zv=,Iv"],
  ["C6 /0", "Eb=,Ib"],
  ["C7 /0", "Ev=,Iz"],
];
for (const [encoding, operands] of MOV) insn("MOV", encoding, operands, { flags: "none" }, mov);

for (const [opcode, source] of [
  ["B6", "Eb"],
  ["B7", "Ew"],
] as const) {
  insn("MOVZX", `0F ${opcode}`, `Gv=,${source}`, { flags: "none" }, mov);
  const signed = `0F ${(Number.parseInt(opcode, 16) + 8).toString(16).toUpperCase()}`;
  insn("MOVSX", signed, `Gv=,${source}`, { flags: "none" }, (c) => c.write(0, c.readSigned(1)));
}
insn("MOVSXD", "63", "Gv=,Ed", { mode: "only64", flags: "none" }, (c) => c.write(0, c.readSigned(1)));

insn("LEA", "8D", "Gv=,M", { flags: "none" }, (c) => c.write(0, c.offset()));

insn("XLAT", "D7", "", {}, (c) => {
  const d = c.field("d");
  const size = d.shrU(5).and(3);
  const mask = size.eqz().select(c.i64(0xffff), size.eq(1).select(c.i64(0xffff_ffffn), c.i64(-1)));
  const offset = c.readGpr(Gpr.RBX, 64).add(c.readGpr(Gpr.RAX, 8)).and(mask);
  c.writeGpr(Gpr.RAX, 8, c.readAt(8, c.segmented(d.shrU(2).and(7), offset, 8, false)));
});

const xchg = (c: Insn): void => {
  const b = c.read(1);
  if (c.isMemory(0)) {
    let old = b;
    c.modify(0, (value) => {
      old = value;
      return b;
    });
    c.write(1, old);
  } else {
    const a = c.read(0);
    c.write(0, b);
    c.write(1, a);
  }
};
insn("XCHG", "86", "Eb+,Gb+", { lock: true, flags: "none" }, xchg);
insn("XCHG", "87", "Ev+,Gv+", { lock: true, flags: "none" }, xchg);
// 90 is NOP except as an exchange with R8 (REX.B); XCHG EAX, EAX would clear the upper half.
insn("XCHG", "90 +r", "Zv+,rAX+", { flags: "none" }, (c) => {
  if (c.opsize === 32) c.if(c.field("a").ne(0), () => xchg(c));
  else xchg(c);
});

insn("BSWAP", "0F C8 +r", "Zy+", { flags: "none" }, (c) => {
  const bits = c.bits(0);
  const swap8 = (x: I64): I64 =>
    x.and(0x00ff_00ff_00ff_00ffn).shl(8).or(x.shrU(8).and(0x00ff_00ff_00ff_00ffn));
  const x = swap8(c.read(0));
  const y = x.and(0x0000_ffff_0000_ffffn).shl(16).or(x.shrU(16).and(0x0000_ffff_0000_ffffn));
  c.write(0, bits === 64 ? y.rotl(32) : y);
});

const swapBytes = (c: Insn, bits: number, x: I64): I64 => {
  let out: I64 = c.i64(0);
  for (let i = 0; i < bits; i += 8)
    out = out.or(
      x
        .shrU(i)
        .and(0xff)
        .shl(bits - 8 - i),
    );
  return out;
};
insn("MOVBE", "0F 38 F0", "Gv=,Mv", { feature: "movbe" }, (c) =>
  c.write(0, swapBytes(c, c.opsize, c.read(1))),
);
insn("MOVBE", "0F 38 F1", "Mv=,Gv", { feature: "movbe" }, (c) =>
  c.write(0, swapBytes(c, c.opsize, c.read(1))),
);

for (let cc = 0; cc < 16; cc++) {
  const digit = cc.toString(16).toUpperCase();
  insn("SETcc", `0F 9${digit}`, "Eb=", {}, (c) => c.write(0, condition(c, cc).u64()));
  insn("CMOVcc", `0F 4${digit}`, "Gv+,Ev", {}, (c) => {
    const value = c.read(1);
    c.write(0, condition(c, cc).select(value, c.read(0)));
  });
}

/** Pushes `bits` of `value`; RSP changes only once the store has succeeded. */
export function push(c: Insn, bits: number, value: I64): void {
  const rsp = get64(c, Cpu.GPR + 8 * Gpr.RSP);
  if (c.variant.spec.size64 !== undefined && bits === 64) {
    // 64-bit pushes exist in 64-bit mode only: no segment, no mask.
    const to = c.let(rsp.sub(8));
    c.writeAt(64, to, value, true);
    c.writeGpr(Gpr.RSP, 64, to);
    return;
  }
  const mask = c.let(stackMask(c));
  const to = c.let(rsp.sub(bits / 8).and(mask));
  c.writeAt(bits, c.segmented(c.i32(Seg.SS), to, bits, true), value, true);
  c.writeGpr(Gpr.RSP, 64, rsp.and(mask.not()).or(to));
}

/** Reads the top of the stack; `commit` then moves RSP past it (and `extra` bytes more). */
export function pop(c: Insn, bits: number): { value: I64; commit: (extra?: I64) => void } {
  const rsp = get64(c, Cpu.GPR + 8 * Gpr.RSP);
  if (c.variant.spec.size64 !== undefined && bits === 64) {
    const value = c.readAt(64, rsp, true);
    return { value, commit: (extra = c.i64(0)) => c.writeGpr(Gpr.RSP, 64, rsp.add(8).add(extra)) };
  }
  const mask = c.let(stackMask(c));
  const value = c.readAt(bits, c.segmented(c.i32(Seg.SS), rsp.and(mask), bits, false), true);
  return {
    value,
    commit: (extra = c.i64(0)) =>
      c.writeGpr(
        Gpr.RSP,
        64,
        rsp.and(mask.not()).or(
          rsp
            .add(bits / 8)
            .add(extra)
            .and(mask),
        ),
      ),
  };
}

const PUSH: readonly [string, string][] = [
  ["50 +r", "Zv"],
  ["FF /6", "Ev"],
  ["68", "Iz"],
  ["6A", "Ib"],
];
for (const [encoding, operands] of PUSH)
  insn("PUSH", encoding, operands, { size64: "d64" }, (c) => push(c, c.opsize, c.readSigned(0)));

insn("POP", "58 +r", "Zv=", { size64: "d64" }, (c) => {
  const { value, commit } = pop(c, c.opsize);
  commit();
  c.write(0, value);
});
insn("POP", "8F /0", "Ev=", { size64: "d64" }, (c) => {
  const { value, commit } = pop(c, c.opsize);
  if (!c.isMemory(0)) {
    commit();
    c.write(0, value);
    return;
  }
  // The address is formed with RSP already moved; a fault must find it as it was.
  const before = get64(c, Cpu.GPR + 8 * Gpr.RSP);
  commit();
  c.undoOnLeave(
    () => c.writeGpr(Gpr.RSP, 64, before),
    () => c.write(0, value),
  );
});

insn("PUSHA", "60", "", { mode: "no64", sizes: [16, 32] }, (c) => {
  const bits = c.opsize;
  const mask = c.let(stackMask(c));
  const rsp = get64(c, Cpu.GPR + 8 * Gpr.RSP);
  const base = c.let(rsp.sub(bits).and(mask));
  for (let i = 0; i < 8; i++) {
    const to = base.add((7 - i) * (bits / 8)).and(mask);
    c.writeAt(bits, c.segmented(c.i32(Seg.SS), to, bits, true), i === Gpr.RSP ? rsp : c.readGpr(i, 64), true);
  }
  c.writeGpr(Gpr.RSP, 64, rsp.and(mask.not()).or(base));
});
insn("POPA", "61", "", { mode: "no64", sizes: [16, 32] }, (c) => {
  const bits = c.opsize;
  const mask = c.let(stackMask(c));
  const rsp = get64(c, Cpu.GPR + 8 * Gpr.RSP);
  const values: I64[] = [];
  for (let i = 0; i < 8; i++) {
    const from = rsp.add((7 - i) * (bits / 8)).and(mask);
    values.push(c.readAt(bits, c.segmented(c.i32(Seg.SS), from, bits, false), true));
  }
  values.forEach((value, i) => {
    if (i !== Gpr.RSP) c.writeGpr(i, bits, value);
  });
  c.writeGpr(Gpr.RSP, 64, rsp.and(mask.not()).or(rsp.add(bits).and(mask)));
});

insn("LAHF", "9F", "", {}, (c) => {
  const flags = c.call<I32>(arithmeticFlags);
  c.store("i32.store8", c.cpu, flags.or(2), Cpu.GPR + 1);
});
insn("SAHF", "9E", "", {}, (c) => {
  const ah = c.load("i32.load8_u", c.cpu, Cpu.GPR + 1);
  setExplicit(c, c.call<I32>(arithmeticFlags).and(0x800).or(ah.and(0xd5)));
});

insn("CDQE", "98", "", { sizes: [16, 32, 64], flags: "none" }, (c) => {
  const half = c.opsize / 2;
  c.writeGpr(Gpr.RAX, c.opsize, c.readGpr(Gpr.RAX, half).signExtend(half));
});
insn("CQO", "99", "", { sizes: [16, 32, 64], flags: "none" }, (c) => {
  const bits = c.opsize;
  c.writeGpr(Gpr.RDX, bits, c.readGpr(Gpr.RAX, bits).signExtend(bits).shrS(63));
});
