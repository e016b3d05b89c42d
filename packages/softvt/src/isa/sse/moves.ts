import type { I32 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { insn } from "../registry.ts";
import { enterMmx } from "../sse-common.ts";
import { high64, low64, mmx, sse, sseUnary, WIDE_FLOAT, WIDE_INTEGER, zeroExtended } from "./define.ts";

/** Moves between XMM registers and memory (SDM Vol. 2B, MOVAPS and on). */

// 128 bits, aligned or not: load opcode, store opcode.
for (const [name, load, store, feature, aligned] of [
  ["MOVUPS", "NP 0F 10", "NP 0F 11", "sse", "never"],
  ["MOVUPD", "66 0F 10", "66 0F 11", "sse2", "never"],
  ["MOVAPS", "NP 0F 28", "NP 0F 29", "sse", "always"],
  ["MOVAPD", "66 0F 28", "66 0F 29", "sse2", "always"],
  ["MOVDQA", "66 0F 6F", "66 0F 7F", "sse2", "always"],
  ["MOVDQU", "F3 0F 6F", "F3 0F 7F", "sse2", "never"],
] as const) {
  const options = { vexForms: WIDE_FLOAT };
  sse(name, load, "Vx=,Wx", feature, (c) => c.writeHalves(0, c.readHalves(1, aligned)), options);
  sse(name, store, "Wx=,Vx", feature, (c) => c.writeHalves(0, c.readHalves(1), aligned), options);
}
for (const [name, encoding, feature, aligned, vexForms] of [
  ["LDDQU", "F2 0F F0", "sse3", "never", WIDE_FLOAT],
  ["MOVNTDQA", "66 0F 38 2A", "sse4.1", "always", WIDE_INTEGER],
] as const)
  sse(name, encoding, "Vx=,Mx", feature, (c) => c.writeHalves(0, c.readHalves(1, aligned)), { vexForms });
for (const [name, encoding, feature] of [
  ["MOVNTPS", "NP 0F 2B", "sse"],
  ["MOVNTPD", "66 0F 2B", "sse2"],
  ["MOVNTDQ", "66 0F E7", "sse2"],
] as const)
  sse(name, encoding, "Mx=,Vx", feature, (c) => c.writeHalves(0, c.readHalves(1), "always"), {
    vexForms: WIDE_FLOAT,
  });
// No register of the vector unit takes part: nothing to check.
insn("MOVNTI", "NP 0F C3", "My=,Gy", { feature: "sse2" }, (c) => c.write(0, c.read(1)));

// Scalars: a load clears the rest of the register, a move between registers keeps it.
for (const [encoding, operands, vex] of [
  ["F3 0F 10", "Vx+,Ux", "Vx=,Hx,Ux"],
  ["F3 0F 11", "Ux+,Vx", "Ux=,Hx,Vx"],
] as const)
  sse(
    "MOVSS",
    encoding,
    operands,
    "sse",
    (c) => {
      const lanes = [16, 17, 18, 19, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
      const src = c.readVector(1);
      c.writeVector(0, c.op("i8x16.shuffle", [c.readVector(0), src], lanes));
    },
    { vexForms: { operands: vex, scalar: true } },
  );
for (const [encoding, operands, vex] of [
  ["F2 0F 10", "Vq+,Uq", "Vq=,Hq,Uq"],
  ["F2 0F 11", "Uq+,Vq", "Uq=,Hq,Vq"],
] as const)
  sse("MOVSD", encoding, operands, "sse2", (c) => c.write(0, c.read(1)), {
    vexForms: { operands: vex, scalar: true },
  });
for (const [name, prefix, size, feature] of [
  ["MOVSS", "F3", "d", "sse"],
  ["MOVSD", "F2", "q", "sse2"],
] as const) {
  const options = { vexForms: { scalar: true } };
  const load = (c: Insn): void => c.writeVector(0, zeroExtended(c, c.read(1)));
  sse(name, `${prefix} 0F 10`, `Vx=,M${size}`, feature, load, options);
  sse(name, `${prefix} 0F 11`, `M${size}=,V${size}`, feature, (c) => c.write(0, c.read(1)), options);
}

// One half, the other kept.
for (const [name, opcode, feature] of [
  ["MOVLPS", "NP 0F", "sse"],
  ["MOVLPD", "66 0F", "sse2"],
] as const) {
  sse(name, `${opcode} 12`, "Vq+,Mq", feature, (c) => c.write(0, c.read(1)));
  sse(name, `${opcode} 13`, "Mq=,Vq", feature, (c) => c.write(0, c.read(1)));
}
for (const [name, opcode, feature] of [
  ["MOVHPS", "NP 0F", "sse"],
  ["MOVHPD", "66 0F", "sse2"],
] as const) {
  sse(name, `${opcode} 16`, "Vx+,Mq", feature, (c) => {
    const src = c.read(1);
    c.writeVector(0, c.op("i64x2.replace_lane", [c.readVector(0), src], [1]));
  });
  sse(name, `${opcode} 17`, "Mq=,Vx", feature, (c) => c.write(0, high64(c, c.readVector(1))));
}
sse("MOVHLPS", "NP 0F 12", "Vx+,Ux", "sse", (c) => {
  const src = c.readVector(1);
  c.writeVector(0, c.op("i64x2.replace_lane", [c.readVector(0), high64(c, src)], [0]));
});
sse("MOVLHPS", "NP 0F 16", "Vx+,Ux", "sse", (c) => {
  const src = c.readVector(1);
  c.writeVector(0, c.op("i64x2.replace_lane", [c.readVector(0), low64(c, src)], [1]));
});

// Duplicating moves.
sse(
  "MOVDDUP",
  "F2 0F 12",
  "Vx=,Wq",
  "sse3",
  (c) => {
    const low = c.halves === 1 ? [c.read(1)] : c.readHalves(1).map((x) => low64(c, x));
    c.writeHalves(
      0,
      low.map((x) => c.op("i64x2.splat", [x])),
    );
  },
  { vexForms: { wide: "avx", wideOperands: "Vx=,Wx" } },
);
for (const [name, opcode, lanes] of [
  ["MOVSLDUP", "12", [0, 1, 2, 3, 0, 1, 2, 3, 8, 9, 10, 11, 8, 9, 10, 11]],
  ["MOVSHDUP", "16", [4, 5, 6, 7, 4, 5, 6, 7, 12, 13, 14, 15, 12, 13, 14, 15]],
] as const)
  sseUnary(name, `F3 0F ${opcode}`, "sse3", (c, x) => c.op("i8x16.shuffle", [x, x], lanes), WIDE_FLOAT);

// Between general and XMM registers, 32 bits or with REX.W 64.
sse("MOVD", "66 0F 6E", "Vx=,Ey", "sse2", (c) => c.writeVector(0, zeroExtended(c, c.read(1))));
sse("MOVD", "66 0F 7E", "Ey=,Vy", "sse2", (c) => c.write(0, c.read(1)));
sse("MOVQ", "F3 0F 7E", "Vx=,Wq", "sse2", (c) => c.writeVector(0, zeroExtended(c, c.read(1))));
sse("MOVQ", "66 0F D6", "Ux=,Vq", "sse2", (c) => c.writeVector(0, zeroExtended(c, c.read(1))));
sse("MOVQ", "66 0F D6", "Mq=,Vq", "sse2", (c) => c.write(0, c.read(1)));

// Sign bits.
for (const [name, encoding, feature, shape, count, vexForms] of [
  ["MOVMSKPS", "NP 0F 50", "sse", "i32x4", 4, WIDE_FLOAT],
  ["MOVMSKPD", "66 0F 50", "sse2", "i64x2", 2, WIDE_FLOAT],
  ["PMOVMSKB", "66 0F D7", "sse2", "i8x16", 16, WIDE_INTEGER],
] as const)
  sse(
    name,
    encoding,
    "Gd=,Ux",
    feature,
    (c) => {
      const [low, high] = c.readHalves(1).map((x) => c.op<I32>(`${shape}.bitmask`, [x]));
      c.write(0, (high === undefined ? low! : low!.or(high.shl(count))).u64());
    },
    { vexForms },
  );
mmx("PMOVMSKB", "NP 0F D7", "Gd=,Nq", "sse", (c) => {
  c.write(0, c.op<I32>("i8x16.bitmask", [zeroExtended(c, c.read(1))]).u64());
  enterMmx(c);
});
