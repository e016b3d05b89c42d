import { Cpu } from "../../cpu/layout.ts";
import { set32 } from "../../cpu/state.ts";
import { enterMmx, pendingX87 } from "../sse-common.ts";
import { low64, mmx, sse, writeMmx, zeroExtended } from "./define.ts";

/** MMX moves, and EMMS (SDM Vol. 1 ch. 9). MMi is the significand of the x87 register Ri. */

mmx("MOVD", "NP 0F 6E", "Pq=,Ey", "mmx", (c) => writeMmx(c, "a", c.read(1)));
mmx("MOVD", "NP 0F 7E", "Ey=,Py", "mmx", (c) => {
  c.write(0, c.read(1));
  enterMmx(c);
});
mmx("MOVQ", "NP 0F 6F", "Pq=,Qq", "mmx", (c) => writeMmx(c, "a", c.read(1)));
mmx("MOVQ", "NP 0F 7F", "Nq=,Pq", "mmx", (c) => writeMmx(c, "b", c.read(1)));
for (const [name, encoding, feature] of [
  ["MOVQ", "NP 0F 7F", "mmx"],
  ["MOVNTQ", "NP 0F E7", "sse"],
] as const)
  mmx(name, encoding, "Mq=,Pq", feature, (c) => {
    c.write(0, c.read(1));
    enterMmx(c);
  });

const noVex = { vexForms: null };
sse(
  "MOVQ2DQ",
  "F3 0F D6",
  "Vx=,Nq",
  "sse2",
  (c) => {
    pendingX87(c);
    c.writeVector(0, zeroExtended(c, c.read(1)));
    enterMmx(c);
  },
  noVex,
);
sse(
  "MOVDQ2Q",
  "F2 0F D6",
  "Pq=,Ux",
  "sse2",
  (c) => {
    pendingX87(c);
    writeMmx(c, "a", low64(c, c.readVector(1)));
  },
  noVex,
);

mmx("EMMS", "NP 0F 77", "", "mmx", (c) => {
  set32(c, Cpu.TOP, 0);
  set32(c, Cpu.FTW, 0xffff);
});
