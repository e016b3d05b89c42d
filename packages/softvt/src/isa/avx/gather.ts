import { Cpu } from "../../cpu/layout.ts";
import { Access, commitReplay } from "../../cpu/memory.ts";
import { get32 } from "../../cpu/state.ts";
import { EA_SIZE_SHIFT, VVVV_SHIFT } from "../../cpu/uop.ts";
import { type Builder, fn, type I32, type I64 } from "../../ir/builder.ts";
import type { Fn } from "../../ir/ir.ts";
import type { Insn } from "../insn.ts";
import { AVX2, vexOnly } from "./define.ts";
import { accessOf, readElement, segmentOf } from "./element-access.ts";

/**
 * VGATHER and VPGATHER: elements from addresses of their own, an index each from a vector register (SDM Vol. 2C). Every
 * element that is done is stored and its mask cleared: a fault leaves behind what came before it, and the instruction
 * executed again goes on with the rest.
 */

/** Arena address of element `index`, of `bytes` bytes, of the vector register at offset `register`. */
const elementAt = (f: Builder, register: I32, index: I32, bytes: 4 | 8): I32 => {
  const offset = f.let(index.mul(bytes));
  // Its upper half lies apart from the lower one.
  const apart = offset.and(16).mul((Cpu.YMM_HIGH - Cpu.XMM - 16) / 16);
  return f.let(f.cpu.add(register).add(offset).add(apart));
};

/** (destination, mask, index register, count, segment, access, base + displacement, scale, address mask). */
const gatherOf = (bits: 32 | 64, indexBits: 32 | 64): Fn =>
  fn(
    `gather${bits}by${indexBits}`,
    ["i32", "i32", "i32", "i32", "i32", "i32", "i64", "i64", "i64"],
    undefined,
    (f, destination, mask, indices, count, seg, access, base, scale, addressMask) => {
      const bytes = bits === 32 ? 4 : 8;
      const store = bits === 32 ? "i64.store32" : "i64.store";
      const at = f.variable("i32", f.i32(0));
      f.loop((again) => {
        const i = at.get();
        f.if(i.geU(count), () => f.return());
        const wanted = elementAt(f, mask, i, bytes);
        f.if(f.load("i32.load8_s", wanted, Cpu.XMM + bytes - 1).ltS(0), () => {
          const slot = elementAt(f, indices, i, indexBits === 32 ? 4 : 8);
          const index = f.load(indexBits === 32 ? "i64.load32_s" : "i64.load", slot, Cpu.XMM);
          const offset = base.add(index.shl(scale)).and(addressMask);
          const value = f.call<I64>(readElement[bits], seg, offset, access);
          f.if(get32(f, Cpu.EVENT), () => f.return());
          f.store(store, elementAt(f, destination, i, bytes), value, Cpu.XMM);
          // What was read from devices is in the register: it is not to be read again.
          commitReplay(f);
        });
        // Of elements that were not wanted, too, as on processors of the Zen family; Intel's clears these first.
        f.store(store, wanted, f.i64(0), Cpu.XMM);
        at.set(i.add(1));
        f.continue(again);
      });
    },
  );

function gather(c: Insn, fetch: Fn, count: number): void {
  const d = c.field("d");
  const size = d.shrU(EA_SIZE_SHIFT).and(3);
  const base = c.load("i64.load", c.cpu.add(c.field("b"))).add(c.field("imm").s64());
  const vvvv = c.field("imm2").shrU(VVVV_SHIFT);
  c.call(
    fetch,
    c.field("a"),
    vvvv,
    c.field("c"),
    c.i32(count),
    segmentOf(c),
    accessOf(c, Access.READ),
    base,
    d.and(3).u64(),
    size.eq(2).select(c.i64(-1), c.i64(0xffff_ffffn)),
  );
  c.leaveOnEvent();
}

/** Clears bytes from `from` on (0, 8, 16) to the end of the vector register at offset `register`. */
function clearFrom(c: Insn, register: I32, from: number): void {
  const at = c.cpu.add(register);
  if (from === 0) c.store("v128.store", at, c.v128(0n), Cpu.XMM);
  if (from === 8) c.store("i64.store", at, c.i64(0), Cpu.XMM + 8);
  if (from <= 16) c.store("v128.store", at, c.v128(0n), Cpu.YMM_HIGH);
}

// Elements of 32 or 64 bits, indices of either: the narrower of the two fills only part of its register.
for (const [stem, opcode, indexBits] of [
  ["D", 0x90, 32],
  ["Q", 0x91, 64],
] as const)
  for (const [w, bits] of [
    ["W0", 32],
    ["W1", 64],
  ] as const) {
    const fetch = gatherOf(bits, indexBits);
    const size = bits === 32 ? "d" : "q";
    const options = { vex: { vsib: true } };
    for (const [kind, add, suffixes] of [
      ["VPGATHER", 0, ["D", "Q"]],
      ["VGATHER", 2, ["PS", "PD"]],
    ] as const) {
      const suffix = suffixes[bits === 32 ? 0 : 1];
      const encoding = `66 ${w} 0F 38 ${(opcode + add).toString(16).toUpperCase()}`;
      vexOnly(
        `${kind}${stem}${suffix}`,
        encoding,
        `Vx+,M${size},Hx+`,
        AVX2,
        (c) => {
          const count = (c.halves * 128) / Math.max(bits, indexBits);
          gather(c, fetch, count);
          clearFrom(c, c.field("a"), (count * bits) / 8);
          clearFrom(c, c.field("imm2").shrU(VVVV_SHIFT), 0);
        },
        options,
      );
    }
  }
