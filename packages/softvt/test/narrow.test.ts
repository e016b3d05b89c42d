/** 32-bit operations done in 32 bits: whatever is stored is what it was, for random statements and values. */
import { expect, it } from "vitest";
import { Random } from "../../../test/host-cpu/random.ts";
import { type EvaluateContext, evaluate } from "../src/ir/evaluate.ts";
import type { Node, Stmt } from "../src/ir/ir.ts";
import { narrow } from "../src/ir/narrow.ts";

const PARAMS = 3;
const TEMPS = 8;
const RUNS = 3000;
const BINARY = ["add", "sub", "mul", "and", "or", "xor", "shl", "shr_u", "shr_s", "rotl"].map(
  (op) => `i64.${op}`,
);
const UNARY = ["i64.extend8_s", "i64.extend16_s", "i64.extend32_s", "i64.clz", "i64.popcnt"];
const CONSTANTS = [
  0n,
  1n,
  31n,
  32n,
  33n,
  63n,
  0xffn,
  0xffff_ffffn,
  0x1_0000_0000n,
  -1n,
  -4096n,
  -(1n << 63n),
];

const constant = (value: bigint): Node => ({ k: "const", type: "i64", value: BigInt.asUintN(64, value) });
const op = (type: "i32" | "i64", name: string, ...args: Node[]): Node => ({ k: "op", type, op: name, args });
const temp = (id: number): Node => ({ k: "temp", type: "i64", id });

/** An i64 made of the temps below `temps`. */
function expression(random: Random, temps: number, depth: number): Node {
  const kind = depth === 0 ? random.below(2) : random.below(7);
  const part = (): Node => expression(random, temps, depth - 1);
  switch (kind) {
    case 0:
      return temp(random.below(temps));
    case 1:
      return constant(random.pick(CONSTANTS));
    case 2:
      return op("i64", random.pick(UNARY), part());
    case 3:
      return op("i64", "i64.extend_i32_u", op("i32", "i32.wrap_i64", part()));
    case 4: {
      const cond = op("i32", "i64.lt_u", part(), part());
      return { k: "select", type: "i64", cond, yes: part(), no: part() };
    }
    case 5:
      return op(
        "i64",
        random.pick(["i64.shl", "i64.shr_u", "i64.shr_s"]),
        part(),
        op("i64", "i64.and", part(), constant(31n)),
      );
    default:
      return op("i64", random.pick(BINARY), part(), part());
  }
}

/** Assigns temps, one of them in a loop of three rounds, and stores each as a 32-bit and some as a 64-bit value. */
function statements(random: Random): Stmt[] {
  const stmts: Stmt[] = [];
  for (let id = PARAMS; id < TEMPS - 1; id++)
    stmts.push({ s: "set", id, type: "i64", value: expression(random, id, 3) });
  const counter = TEMPS - 1;
  stmts.push({ s: "set", id: counter, type: "i64", value: constant(0n) });
  const label = { kind: "loop" } as const;
  const changed = random.below(TEMPS - 1 - PARAMS) + PARAMS;
  stmts.push({
    s: "loop",
    label,
    body: [
      { s: "set", id: changed, type: "i64", value: expression(random, TEMPS, 2) },
      { s: "set", id: counter, type: "i64", value: op("i64", "i64.add", temp(counter), constant(1n)) },
      {
        s: "if",
        cond: op("i32", "i64.eq", temp(counter), constant(3n)),
        yes: [{ s: "break", label }],
        no: [],
        likely: undefined,
      },
    ],
  });
  for (let id = PARAMS; id < TEMPS; id++) {
    const isWhole = random.below(4) === 0;
    const address: Node = { k: "const", type: "i32", value: 8 * id };
    stmts.push({
      s: "store",
      op: isWhole ? "i64.store" : "i64.store32",
      address,
      offset: 0,
      value: temp(id),
    });
  }
  return stmts;
}

function run(stmts: readonly Stmt[], args: readonly bigint[]): string {
  const memory = new DataView(new ArrayBuffer(8 * TEMPS));
  const context: EvaluateContext = {
    memory,
    cpu: 0,
    uop: 0,
    field: () => 0,
    host: () => undefined,
  };
  evaluate(stmts, args, context);
  return Buffer.from(memory.buffer).toString("hex");
}

const count32 = (stmts: readonly Stmt[]): number =>
  JSON.stringify(stmts, (_, v) => (typeof v === "bigint" ? `${v}` : v)).split('"i32.').length - 1;

it("stores what it stored", () => {
  const random = new Random(7);
  let narrowed = 0;
  for (let i = 0; i < RUNS; i++) {
    const stmts = statements(random);
    const sets = new Uint8Array(TEMPS);
    for (const stmt of stmts.flatMap((s) => (s.s === "loop" ? s.body : [s])))
      if (stmt.s === "set") sets[stmt.id]!++;
    const made = narrow(stmts, TEMPS, sets);
    if (count32(made) > count32(stmts)) narrowed++;
    const args = Array.from({ length: PARAMS }, () => random.u64());
    expect(
      run(made, args),
      JSON.stringify(stmts, (_, v) => (typeof v === "bigint" ? `${v}n` : v)),
    ).toBe(run(stmts, args));
  }
  expect(narrowed).toBeGreaterThan(RUNS / 2);
});
