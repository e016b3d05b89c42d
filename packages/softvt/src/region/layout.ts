import { Cpu } from "../cpu/layout.ts";
import type { WasmType } from "../wasm/opcodes.ts";

/**
 * The WebAssembly locals of a region's function. They are temps of the same numbers in its statements.
 *
 * ```text
 * region(left, entry) → left
 * ```
 */
export const Reg = {
  /** Parameter and result: the budget left, in bytes of micro-ops, as of the current block's start. */
  LEFT: 0,
  /** Parameter: where to begin. */
  ENTRY: 1,
  /** Address of the vCPU block. */
  CPU: 2,
  RIP_BASE: 3,
  /** Address of the TLB of the current access mode. */
  TLB: 4,
  /** 1 once code of a region was overwritten: leave before the next instruction. */
  STALE: 5,
  /** Where an exit goes on. */
  RIP: 6,
  /** Micro-op at which an event was raised. */
  UOP: 7,
  /** Where a dispatch within the region goes. */
  STATE: 8,
  FLAG_KIND: 9,
  FLAG_AUX: 10,
  FLAG_A: 11,
  FLAG_R: 12,
  /** 16 general registers. */
  GPR: 13,
} as const;

const GPRS = 16;

export const REG_TYPES: readonly WasmType[] = [
  ...(["i32", "i32", "i32", "i64", "i32", "i32", "i64", "i32", "i32", "i32", "i32", "i64", "i64"] as const),
  ...Array.from({ length: GPRS }, (): WasmType => "i64"),
];

/** Fields of the vCPU block that live in locals while a region runs, by local; written back where it is left. */
export const HOMES: ReadonlyMap<number, number> = new Map([
  [Reg.FLAG_KIND, Cpu.FLAG_KIND],
  [Reg.FLAG_AUX, Cpu.FLAG_AUX],
  [Reg.FLAG_A, Cpu.FLAG_A],
  [Reg.FLAG_R, Cpu.FLAG_R],
  ...Array.from({ length: GPRS }, (_, i): [number, number] => [Reg.GPR + i, Cpu.GPR + 8 * i]),
]);

export const FLAG_REGS = [Reg.FLAG_KIND, Reg.FLAG_AUX, Reg.FLAG_A, Reg.FLAG_R] as const;
const FLAG_FIELDS = new Map<number, number>(FLAG_REGS.map((reg) => [HOMES.get(reg)!, reg]));

/** What stands at a constant offset of the vCPU block, as a region sees it. */
export type Place =
  | { readonly kind: "gpr"; readonly reg: number; readonly byte: number }
  /** A whole field that lives in local `reg`. */
  | { readonly kind: "field"; readonly reg: number }
  | { readonly kind: "zero" | "mode" | "event" | "memory" };

const GPR_END = Cpu.GPR + 8 * GPRS;
/** Everything from here on may be reached with an index that is not constant without meeting a local. */
export const FIRST_INDEXED = Cpu.SEG_BASE;

export function placeAt(offset: number): Place {
  if (offset < GPR_END) return { kind: "gpr", reg: Reg.GPR + (offset >> 3), byte: offset & 7 };
  if (offset === Cpu.ZERO) return { kind: "zero" };
  if (offset === Cpu.RIP_BASE) return { kind: "field", reg: Reg.RIP_BASE };
  if (offset === Cpu.TLB) return { kind: "field", reg: Reg.TLB };
  if (offset === Cpu.MODE) return { kind: "mode" };
  if (offset === Cpu.EVENT) return { kind: "event" };
  const flag = FLAG_FIELDS.get(offset);
  return flag === undefined ? { kind: "memory" } : { kind: "field", reg: flag };
}
