import { describe, expect, it } from "vitest";
import { FLOAT_SPECIALS, Random } from "../../../test/host-cpu/random.ts";
import { Cpu } from "../src/cpu/layout.ts";
import { ARITHMETIC } from "../src/fpu/arithmetic.ts";
import { fn, type V128 } from "../src/ir/builder.ts";
import { evaluate } from "../src/ir/evaluate.ts";
import type { Fn } from "../src/ir/ir.ts";
import {
  BITS,
  compute,
  type Environment,
  type Name,
  type Operation,
  type Result,
} from "./support/exact-float.ts";
import { CPU_ADDRESS, compile, FREE_ADDRESS } from "./support/module.ts";

/** The soft float's functions with results of 128 bits stored in memory, where a test can see them. */
function exported(name: Name, op: Operation): Fn {
  const soft = ARITHMETIC[name][op];
  return fn(`test_${op}_${name}`, soft.params, undefined, (f, ...args) => {
    const value = f.call(soft, ...args);
    if (name === "f80") f.store("v128.store", f.i32(FREE_ADDRESS), value as unknown as V128);
    else f.store("i64.store", f.i32(FREE_ADDRESS), value);
  });
}

const NAMES: readonly Name[] = ["f32", "f64", "f80"];
const OPERATIONS: readonly Operation[] = ["add", "subtract", "multiply", "divide", "sqrt"];
const FUNCTIONS = new Map(
  NAMES.flatMap((name) => OPERATIONS.map((op) => [`${op}_${name}`, exported(name, op)])),
);
const module = compile([...FUNCTIONS.values()]);

/** MXCSR's form of an environment, precision control in bits 17:16. */
const envOf = (env: Environment): number =>
  (env.daz ? 0x40 : 0) |
  (env.masks << 7) |
  (env.mode << 13) |
  (env.ftz ? 0x8000 : 0) |
  ({ 24: 0, 53: 2, 64: 3 }[env.precision] << 16);

function argumentsOf(name: Name, operands: readonly bigint[], env: Environment): (bigint | number)[] {
  const parts = operands.flatMap((x): (bigint | number)[] =>
    name === "f80" ? [BigInt.asUintN(64, x), Number(x >> 64n)] : [x],
  );
  return [...parts, envOf(env)];
}

const resultIn = (memory: DataView, name: Name): Result => {
  const low = memory.getBigUint64(FREE_ADDRESS, true);
  const high = memory.getBigUint64(FREE_ADDRESS + 8, true);
  const bits = name === "f80" ? (high << 64n) | low : low;
  return { bits, flags: memory.getUint32(CPU_ADDRESS + Cpu.FP_FLAGS, true) };
};

function generated(op: Operation, name: Name, operands: readonly bigint[], env: Environment): Result {
  module.memory.setUint32(CPU_ADDRESS + Cpu.FP_FLAGS, 0, true);
  module.call[`test_${op}_${name}`]!(...argumentsOf(name, operands, env));
  return resultIn(module.memory, name);
}

const memory = new DataView(new ArrayBuffer(FREE_ADDRESS + 64));
function evaluated(op: Operation, name: Name, operands: readonly bigint[], env: Environment): Result {
  memory.setUint32(CPU_ADDRESS + Cpu.FP_FLAGS, 0, true);
  const { stmts } = FUNCTIONS.get(`${op}_${name}`)!.body!();
  evaluate(stmts, argumentsOf(name, operands, env), {
    memory,
    cpu: CPU_ADDRESS,
    uop: 0,
    field: () => 0,
    host: () => undefined,
  });
  return resultIn(memory, name);
}

const width = (name: Name): 32 | 64 | 80 => Number(name.slice(1)) as 32 | 64 | 80;

function randomEnvironment(random: Random, name: Name): Environment {
  return {
    mode: random.below(4),
    daz: name !== "f80" && random.oneIn(4),
    ftz: name !== "f80" && random.oneIn(4),
    masks: random.oneIn(4) ? random.below(64) : 63,
    precision: name === "f80" ? random.pick([24, 53, 64, 64] as const) : 64,
  };
}

function differences(
  op: Operation,
  name: Name,
  operands: readonly bigint[],
  env: Environment,
  run = generated,
): string | undefined {
  const expected = compute(op, name, operands, env);
  const actual = run(op, name, operands, env);
  // With an unmasked exception SSE has no result: only which exceptions there are counts.
  const unmasked = expected.flags & ~env.masks & 0x3f;
  const compares = name === "f80" ? (unmasked & 7) === 0 : unmasked === 0;
  const flags = name === "f80" ? 0x23f : 0x3f;
  if ((actual.flags & flags) === (expected.flags & flags) && (!compares || actual.bits === expected.bits))
    return;
  return `${op}(${operands.map((x) => x.toString(16))}) ${JSON.stringify(env)}: ${actual.bits.toString(16)} flags ${actual.flags.toString(16)}, not ${expected.bits.toString(16)} flags ${expected.flags.toString(16)}`;
}

describe.each(NAMES)("%s arithmetic by definition", (name) => {
  it.each(OPERATIONS)("%s of specials in every rounding mode", (op) => {
    const specials = FLOAT_SPECIALS[width(name)];
    const found: string[] = [];
    for (const precision of name === "f80" ? ([24, 53, 64] as const) : ([64] as const))
      for (const [masks, daz, ftz] of [
        [63, false, false],
        [63, true, true],
        [0, false, false],
      ] as const)
        for (let mode = 0; mode < 4; mode++)
          for (const a of specials)
            for (const b of op === "sqrt" ? [undefined] : specials) {
              const flushes = name !== "f80";
              const env = { mode, masks, precision, daz: flushes && daz, ftz: flushes && ftz };
              const difference = differences(op, name, b === undefined ? [a] : [a, b], env);
              if (difference !== undefined) found.push(difference);
            }
    expect(found.slice(0, 5)).toEqual([]);
  });

  it.each(OPERATIONS)("%s of random numbers", (op) => {
    const random = new Random(width(name) * 5 + OPERATIONS.indexOf(op));
    const found: string[] = [];
    const stored = BITS[name].fraction + (name === "f80" ? 1 : 0);
    for (let i = 0; i < 20_000; i++) {
      const a = random.float(width(name));
      // Near neighbours cancel; near reciprocals under- and overflow.
      const near = random.oneIn(3)
        ? a ^ (random.bits(width(name)) >> BigInt(random.below(stored)))
        : undefined;
      const operands = op === "sqrt" ? [a] : [a, near ?? random.float(width(name))];
      const difference = differences(op, name, operands, randomEnvironment(random, name));
      if (difference !== undefined) found.push(difference);
    }
    expect(found.slice(0, 5)).toEqual([]);
  });

  it.each(OPERATIONS)("%s: the evaluator agrees with the generated code", (op) => {
    const random = new Random(width(name) * 7 + OPERATIONS.indexOf(op));
    for (let i = 0; i < 400; i++) {
      const count = op === "sqrt" ? 1 : 2;
      const operands = Array.from({ length: count }, () => random.float(width(name)));
      const env = randomEnvironment(random, name);
      expect(evaluated(op, name, operands, env)).toEqual(generated(op, name, operands, env));
    }
  });
});
