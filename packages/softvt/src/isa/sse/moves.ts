import type { I32 } from "../../ir/builder.ts";
import { insn } from "../registry.ts";
import { enterMmx } from "../sse-common.ts";
import { high64, low64, mmx, sse, sseUnary, zeroExtended } from "./define.ts";

/** Moves between XMM registers and memory (SDM Vol. 2B, MOVAPS and on). */

// 128 bits, aligned or not: load opcode, store opcode.
for (const [name, load, store, feature, aligned] of [
  ["MOVUPS", "NP 0F 10", "NP 0F 11", "sse", false],
  ["MOVUPD", "66 0F 10", "66 0F 11", "sse2", false],
  ["MOVAPS", "NP 0F 28", "NP 0F 29", "sse", true],
  ["MOVAPD", "66 0F 28", "66 0F 29", "sse2", true],
  ["MOVDQA", "66 0F 6F", "66 0F 7F", "sse2", true],
  ["MOVDQU", "F3 0F 6F", "F3 0F 7F", "sse2", false],
] as const) {
  sse(name, load, "Vx=,Wx", feature, (c) => c.writeVector(0, c.readVector(1, aligned)));
  sse(name, store, "Wx=,Vx", feature, (c) => c.writeVector(0, c.readVector(1), aligned));
}
sse("LDDQU", "F2 0F F0", "Vx=,Mx", "sse3", (c) => c.writeVector(0, c.readVector(1, false)));
sse("MOVNTDQA", "66 0F 38 2A", "Vx=,Mx", "sse4.1", (c) => c.writeVector(0, c.readVector(1)));
for (const [name, encoding, feature] of [
  ["MOVNTPS", "NP 0F 2B", "sse"],
  ["MOVNTPD", "66 0F 2B", "sse2"],
  ["MOVNTDQ", "66 0F E7", "sse2"],
] as const)
  sse(name, encoding, "Mx=,Vx", feature, (c) => c.writeVector(0, c.readVector(1)));
// No register of the vector unit takes part: nothing to check.
insn("MOVNTI", "NP 0F C3", "My=,Gy", { feature: "sse2" }, (c) => c.write(0, c.read(1)));

// Scalars: a load clears the rest of the register, a move between registers keeps it.
for (const [encoding, operands] of [
  ["F3 0F 10", "Vx+,Ux"],
  ["F3 0F 11", "Ux+,Vx"],
] as const)
  sse("MOVSS", encoding, operands, "sse", (c) => {
    const lanes = [16, 17, 18, 19, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    const src = c.readVector(1);
    c.writeVector(0, c.op("i8x16.shuffle", [c.readVector(0), src], lanes));
  });
sse("MOVSS", "F3 0F 10", "Vx=,Md", "sse", (c) => c.writeVector(0, zeroExtended(c, c.read(1))));
sse("MOVSS", "F3 0F 11", "Md=,Vd", "sse", (c) => c.write(0, c.read(1)));
sse("MOVSD", "F2 0F 10", "Vq+,Uq", "sse2", (c) => c.write(0, c.read(1)));
sse("MOVSD", "F2 0F 10", "Vx=,Mq", "sse2", (c) => c.writeVector(0, zeroExtended(c, c.read(1))));
sse("MOVSD", "F2 0F 11", "Wq=,Vq", "sse2", (c) => c.write(0, c.read(1)));

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
sse("MOVDDUP", "F2 0F 12", "Vx=,Wq", "sse3", (c) => c.writeVector(0, c.op("i64x2.splat", [c.read(1)])));
sseUnary("MOVSLDUP", "F3 0F 12", "sse3", (c, x) =>
  c.op("i8x16.shuffle", [x, x], [0, 1, 2, 3, 0, 1, 2, 3, 8, 9, 10, 11, 8, 9, 10, 11]),
);
sseUnary("MOVSHDUP", "F3 0F 16", "sse3", (c, x) =>
  c.op("i8x16.shuffle", [x, x], [4, 5, 6, 7, 4, 5, 6, 7, 12, 13, 14, 15, 12, 13, 14, 15]),
);

// Between general and XMM registers, 32 bits or with REX.W 64.
sse("MOVD", "66 0F 6E", "Vx=,Ey", "sse2", (c) => c.writeVector(0, zeroExtended(c, c.read(1))));
sse("MOVD", "66 0F 7E", "Ey=,Vy", "sse2", (c) => c.write(0, c.read(1)));
sse("MOVQ", "F3 0F 7E", "Vx=,Wq", "sse2", (c) => c.writeVector(0, zeroExtended(c, c.read(1))));
sse("MOVQ", "66 0F D6", "Ux=,Vq", "sse2", (c) => c.writeVector(0, zeroExtended(c, c.read(1))));
sse("MOVQ", "66 0F D6", "Mq=,Vq", "sse2", (c) => c.write(0, c.read(1)));

// Sign bits.
for (const [name, encoding, feature, shape] of [
  ["MOVMSKPS", "NP 0F 50", "sse", "i32x4"],
  ["MOVMSKPD", "66 0F 50", "sse2", "i64x2"],
  ["PMOVMSKB", "66 0F D7", "sse2", "i8x16"],
] as const)
  sse(name, encoding, "Gd=,Ux", feature, (c) =>
    c.write(0, c.op<I32>(`${shape}.bitmask`, [c.readVector(1)]).u64()),
  );
mmx("PMOVMSKB", "NP 0F D7", "Gd=,Nq", "sse", (c) => {
  c.write(0, c.op<I32>("i8x16.bitmask", [zeroExtended(c, c.read(1))]).u64());
  enterMmx(c);
});
