import { type Builder, fn, type I32, type I64 } from "../ir/builder.ts";
import { Cpu, Mode, Seg } from "./layout.ts";
import { get32, raise, Vector } from "./state.ts";
import { EA_SEGMENT_SHIFT, EA_SIZE_SHIFT } from "./uop.ts";

/**
 * How a memory operand's address is formed. The decoder picks the simplest that holds.
 *
 * Micro-op fields: b and c are the offsets of the base and index registers in the vCPU block (ZERO where
 * there is none, RIP_BASE for RIP-relative operands, a segment base for FS and GS in 64-bit mode), imm the
 * displacement, d packs scale (bits 1:0), segment (4:2), address size (6:5: 0 16, 1 32, 2 64 bits) and RIP
 * overflow (7: add 2^32, for a displacement that left 32 bits when the micro-op's own offset was added).
 *
 * - `base64`, `base32`: base + displacement, in a flat segment.
 * - `index64`, `index32`: base + index << scale + displacement, in a flat segment.
 * - `any`: everything, with segment checks outside 64-bit mode.
 * - `absolute`: imm and imm2 are the offset's halves.
 */
export type EaKind = "base64" | "index64" | "base32" | "index32" | "any" | "absolute";

const LOW32 = 0xffff_ffffn;

/** Offset from the micro-op at `uop`, for kind `any`. */
const anyOffset = fn("anyOffset", ["i32"], "i64", (f, uop) => {
  const register = (field: number): I64 => f.load("i64.load", f.cpu.add(f.load("i32.load8_u", uop, field)));
  const d = f.load("i32.load8_u", uop, 7);
  const index = register(6).shl(d.and(3).u64());
  const high = f.i64(0x1_0000_0000n).mul(d.shrU(7).u64());
  const sum = f.let(
    register(5)
      .add(index)
      .add(f.load("i32.load", uop, 8).s64())
      .add(high),
  );
  const size = d.shrU(EA_SIZE_SHIFT).and(3);
  f.if(size.eqz(), () => f.return(sum.and(0xffff)));
  f.if(size.eq(1), () => f.return(sum.and(LOW32)));
  f.return(sum);
});

/**
 * Linear address of `offset` in segment `seg`, with the checks of SDM Vol. 3A sec. 5.3 to 5.5 for an access
 * of `bytes` bytes (`write`: 1). In 64-bit mode only FS and GS have a base and nothing is checked.
 * Raises #GP(0) or #SS(0): test EVENT.
 */
export const segmentAddress = fn(
  "segmentAddress",
  ["i32", "i64", "i32", "i32"],
  "i64",
  (f, seg, offset, bytes, write) => {
    const base = f.load("i64.load", f.cpu.add(seg.shl(3)), Cpu.SEG_BASE);
    f.if(get32(f, Cpu.MODE).and(Mode.CODE_MASK).eq(Mode.CODE64), () => {
      f.if(seg.geU(Seg.FS), () => f.return(base.add(offset)));
      f.return(offset);
    });
    const access = f.load("i32.load", f.cpu.add(seg.shl(2)), Cpu.SEG_ACCESS);
    const limit = f.load("i32.load", f.cpu.add(seg.shl(2)), Cpu.SEG_LIMIT).u64();
    const last = offset.add(bytes.sub(1).u64());
    const bad = f.variable("i32", access.shrU(16).and(1));
    // In real mode CS may be written too, whatever type protected mode or RESET left in it.
    const typed = get32(f, Cpu.MODE).and(Mode.REAL).eqz();
    const isCode = access.shrU(3).and(1);
    // Type bit 1: writable for data, readable for code. Bit 2: expand-down for data.
    f.if(write.and(typed), () => bad.set(bad.get().or(isCode).or(access.shrU(1).and(1).eqz())));
    f.if(write.eqz().and(isCode).and(typed), () => bad.set(bad.get().or(access.shrU(1).and(1).eqz())));
    f.if(
      access.and(0xc).eq(4),
      () => {
        const top = access.shrU(14).and(1).select(f.i64(LOW32), f.i64(0xffffn));
        bad.set(bad.get().or(offset.leU(limit)).or(last.gtU(top)));
      },
      () => bad.set(bad.get().or(last.gtU(limit))),
    );
    f.unlikely(bad.get(), () => {
      f.if(
        seg.eq(Seg.SS),
        () => raise(f, Vector.SS),
        () => raise(f, Vector.GP),
      );
    });
    f.return(base.add(offset).and(LOW32));
  },
);

const anyLinear = fn("anyLinear", ["i32", "i32", "i32"], "i64", (f, uop, bytes, write) => {
  const d = f.load("i32.load8_u", uop, 7);
  const seg = d.shrU(EA_SEGMENT_SHIFT).and(7);
  const offset = f.call<I64>(anyOffset, uop);
  f.return(f.call<I64>(segmentAddress, seg, offset, bytes, write));
});

/** The operand's offset within its segment. */
export function effectiveAddress(f: Builder, kind: EaKind): I64 {
  const register = (field: "b" | "c"): I64 => f.load("i64.load", f.cpu.add(f.field(field)));
  const disp = (): I64 => f.field("imm").s64();
  const scaled = (): I64 => register("c").shl(f.field("d").and(3).u64());
  switch (kind) {
    case "base64":
      return register("b").add(disp());
    case "index64":
      return register("b").add(scaled()).add(disp());
    case "base32":
      return register("b").add(disp()).and(LOW32);
    case "index32":
      return register("b").add(scaled()).add(disp()).and(LOW32);
    case "any":
      return f.call<I64>(anyOffset, f.uop);
    case "absolute":
      return f.field("imm").u64().or(f.field("imm2").u64().shl(32));
  }
}

/** The operand's linear address for an access of `bits`; `onEvent` is emitted for a failed segment check. */
export function linearAddress(
  f: Builder,
  kind: EaKind,
  bits: number,
  write: boolean,
  onEvent: () => void,
): I64 {
  if (kind !== "any" && kind !== "absolute") return effectiveAddress(f, kind);
  const bytes = f.i32(bits / 8);
  const writes = f.i32(write ? 1 : 0);
  const address =
    kind === "any"
      ? f.call<I64>(anyLinear, f.uop, bytes, writes)
      : f.call<I64>(
          segmentAddress,
          f.field("d").shrU(EA_SEGMENT_SHIFT).and(7),
          effectiveAddress(f, kind),
          bytes,
          writes,
        );
  f.unlikely(get32(f, Cpu.EVENT), onEvent);
  return address;
}

/** The width of the stack pointer as a mask: 64-bit mode, SS.B, or 16 bits. */
export const stackMask = (f: Builder): I64 => {
  const mode: I32 = get32(f, Cpu.MODE);
  return mode
    .and(Mode.CODE_MASK)
    .eq(Mode.CODE64)
    .select(f.i64(-1), mode.and(Mode.STACK32).select(f.i64(LOW32), f.i64(0xffff)));
};
