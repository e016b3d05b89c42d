import { type Fits32, fold } from "../ir/fold.ts";
import type { Node, Stmt } from "../ir/ir.ts";
import { LOADS, type LoadName, STORES, type StoreName, type WasmType } from "../wasm/opcodes.ts";
import { REG_TYPES } from "./layout.ts";

/** Expressions and statements of a region's code, simplified as they are made. */

export const i32 = (value: number): Node => ({ k: "const", type: "i32", value: value | 0 });
export const i64 = (value: bigint): Node => ({ k: "const", type: "i64", value: BigInt.asUintN(64, value) });
export const zero = (type: WasmType): Node => ({ k: "const", type, value: type === "i64" ? 0n : 0 });
export const local = (reg: number): Node => ({ k: "temp", type: REG_TYPES[reg]!, id: reg });
export const op = (type: WasmType, name: string, ...args: Node[]): Node =>
  fold({ k: "op", type, op: name, args });
export const set = (reg: number, value: Node): Stmt => ({ s: "set", id: reg, type: REG_TYPES[reg]!, value });
export const cpuLoad = (reg: number, home: number): Stmt => ({
  s: "load",
  id: reg,
  op: REG_TYPES[reg] === "i32" ? "i32.load" : "i64.load",
  address: { k: "cpu", type: "i32" },
  offset: home,
});
export const cpuStore = (reg: number, home: number): Stmt => ({
  s: "store",
  op: REG_TYPES[reg] === "i32" ? "i32.store" : "i64.store",
  address: { k: "cpu", type: "i32" },
  offset: home,
  value: local(reg),
});

export const isNegative = (node: Node): Node => op("i32", "i32.lt_s", node, i32(0));

/** `load` of a part of a general register; `known` as for `fold`. */
export function gprPart(load: LoadName, reg: number, byte: number, known: Fits32): Node {
  const { type, bytes } = LOADS[load];
  if (type !== "i64" && type !== "i32") throw new Error(`a general register by ${load}`);
  const signed = load.endsWith("_s");
  const shifted = op("i64", "i64.shr_u", local(reg), i64(BigInt(8 * byte)));
  if (bytes === 8) return shifted;
  const bits = 8 * bytes;
  const part = signed
    ? op("i64", `i64.extend${bits}_s`, shifted)
    : fold({ k: "op", type: "i64", op: "i64.and", args: [shifted, i64((1n << BigInt(bits)) - 1n)] }, known);
  return type === "i64" ? part : op("i32", "i32.wrap_i64", part);
}

/** Local `reg` with a part replaced, as `store` would. */
export function insertPart(store: StoreName, reg: number, byte: number, value: Node): Node {
  const bits = BigInt(8 * STORES[store].bytes);
  const wide = value.type === "i32" ? op("i64", "i64.extend_i32_u", value) : value;
  if (wide.type !== "i64" || bits + BigInt(8 * byte) > 64n)
    throw new Error(`a general register by ${store} at ${byte}`);
  const mask = (1n << bits) - 1n;
  const shift = BigInt(8 * byte);
  const kept = op("i64", "i64.and", local(reg), i64(~(mask << shift)));
  const part = op("i64", "i64.shl", op("i64", "i64.and", wide, i64(mask)), i64(shift));
  return op("i64", "i64.or", kept, part);
}
