import { Cpu } from "../../cpu/layout.ts";
import { Access } from "../../cpu/memory.ts";
import type { I32, V128 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { AVX, AVX2, vexOnly } from "./define.ts";
import { accessOf, readElements, segmentOf, writeElements } from "./element-access.ts";

/**
 * VMASKMOV and VPMASKMOV: loads and stores of the elements whose mask has its top bit set (SDM Vol. 2C). What the mask
 * leaves out is not accessed and cannot fault. Elements go through `Cpu.STAGE`.
 */

/** A bit for each element whose mask has its top bit set. */
function elementsOf(c: Insn, masks: readonly V128[], bits: 32 | 64): I32 {
  const shape = bits === 32 ? "i32x4" : "i64x2";
  const [low, high] = masks.map((mask) => c.op<I32>(`${shape}.bitmask`, [mask]));
  return c.let(high === undefined ? low! : low!.or(high.shl(128 / bits)));
}

for (const [name, load, store, w, bits, lengths] of [
  ["VMASKMOVPS", "2C", "2E", "W0", 32, AVX],
  ["VMASKMOVPD", "2D", "2F", "W0", 64, AVX],
  ["VPMASKMOVD", "8C", "8E", "W0", 32, AVX2],
  ["VPMASKMOVQ", "8C", "8E", "W1", 64, AVX2],
] as const) {
  vexOnly(name, `66 ${w} 0F 38 ${load}`, "Vx=,Hx,Mx", lengths, (c) => {
    const elements = elementsOf(c, c.readHalves(1), bits);
    c.call(readElements[bits], segmentOf(c), c.offset(), accessOf(c, Access.READ), elements);
    c.leaveOnEvent();
    const half = (index: number): V128 => c.load("v128.load", c.cpu, Cpu.STAGE + 16 * index);
    c.writeHalves(
      0,
      Array.from({ length: c.halves }, (_, index) => half(index)),
    );
  });
  vexOnly(name, `66 ${w} 0F 38 ${store}`, "Mx=,Hx,Vx", lengths, (c) => {
    const elements = elementsOf(c, c.readHalves(1), bits);
    c.readHalves(2).forEach((value, index) => {
      c.store("v128.store", c.cpu, value, Cpu.STAGE + 16 * index);
    });
    c.call(writeElements[bits], segmentOf(c), c.offset(), accessOf(c, Access.WRITE), elements);
    c.leaveOnEvent();
  });
}
