import { carryFlag, FlagKind } from "../../cpu/flags.ts";
import { Cpu } from "../../cpu/layout.ts";
import { set32 } from "../../cpu/state.ts";
import type { I32, I64 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { type InsnOptions, insn } from "../registry.ts";

/** Two-operand arithmetic and logic (SDM Vol. 2: ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, TEST) and its one-operand kin. */

/** Stores flags of a sum or difference that took the carry in: the kind follows from the carry. */
function carriedFlags(c: Insn, base: FlagKind, bits: number, carry: I32, a: I64, r: I64): void {
  c.flags(base, bits, a, r);
  if (!c.variant.noFlags) set32(c, Cpu.FLAG_KIND, carry.add(base | ((64 - bits) << 8)));
}

type Alu = (c: Insn, bits: number, a: I64, b: I64) => { result: I64; flags: () => void };

const ALU: Record<string, Alu> = {
  ADD: (c, bits, a, b) => {
    const result = a.add(b);
    return { result, flags: () => c.flags(FlagKind.ADD, bits, a, result) };
  },
  OR: (c, bits, a, b) => {
    const result = a.or(b);
    return { result, flags: () => c.logicFlags(bits, result) };
  },
  ADC: (c, bits, a, b) => {
    const carry = c.call<I32>(carryFlag);
    const result = a.add(b).add(carry.u64());
    return { result, flags: () => carriedFlags(c, FlagKind.ADD, bits, carry, a, result) };
  },
  SBB: (c, bits, a, b) => {
    const carry = c.call<I32>(carryFlag);
    const result = a.sub(b).sub(carry.u64());
    return { result, flags: () => carriedFlags(c, FlagKind.SUB, bits, carry, a, result) };
  },
  AND: (c, bits, a, b) => {
    const result = a.and(b);
    return { result, flags: () => c.logicFlags(bits, result) };
  },
  SUB: (c, bits, a, b) => {
    const result = a.sub(b);
    return { result, flags: () => c.flags(FlagKind.SUB, bits, a, result) };
  },
  XOR: (c, bits, a, b) => {
    const result = a.xor(b);
    return { result, flags: () => c.logicFlags(bits, result) };
  },
};

/** Changes operand 0; `compute` also says how the flags are stored once the operand is written. */
export function modifyWithFlags(c: Insn, compute: (old: I64) => { result: I64; flags: () => void }): void {
  let flags = (): void => {};
  c.modify(0, (old) => {
    const computed = compute(old);
    flags = computed.flags;
    return computed.result;
  });
  flags();
}

const FORMS: readonly [offset: number, operands: string][] = [
  [0, "Eb+,Gb"],
  [1, "Ev+,Gv"],
  [2, "Gb+,Eb"],
  [3, "Gv+,Ev"],
  [4, "AL+,Ib"],
  [5, "rAX+,Iz"],
];

const hex = (n: number): string => n.toString(16).toUpperCase().padStart(2, "0");

Object.entries(ALU).forEach(([name, alu]) => {
  const digit = ["ADD", "OR", "ADC", "SBB", "AND", "SUB", "XOR"].indexOf(name);
  const reads = name === "ADC" || name === "SBB";
  const options: InsnOptions = reads ? { lock: true } : { lock: true, flags: "set" };
  const describe = (c: Insn): void => {
    const b = c.read(1);
    modifyWithFlags(c, (a) => alu(c, c.bits(0), a, b));
  };
  for (const [offset, operands] of FORMS)
    insn(
      name,
      hex(digit * 8 + offset),
      operands,
      offset < 2 ? options : { ...options, lock: false },
      describe,
    );
  insn(name, `80 /${digit}`, "Eb+,Ib", options, describe);
  insn(name, `81 /${digit}`, "Ev+,Iz", options, describe);
  insn(name, `82 /${digit}`, "Eb+,Ib", { ...options, mode: "no64" }, describe);
  insn(name, `83 /${digit}`, "Ev+,Ib", options, describe);
});

const cmp = (c: Insn): void => {
  const a = c.read(0);
  const b = c.read(1);
  c.flags(FlagKind.SUB, c.bits(0), a, a.sub(b));
};
const CMP_FORMS: readonly [string, string][] = [
  ["38", "Eb,Gb"],
  ["39", "Ev,Gv"],
  ["3A", "Gb,Eb"],
  ["3B", "Gv,Ev"],
  ["3C", "AL,Ib"],
  ["3D", "rAX,Iz"],
  ["80 /7", "Eb,Ib"],
  ["81 /7", "Ev,Iz"],
  ["83 /7", "Ev,Ib"],
];
for (const [encoding, operands] of CMP_FORMS) insn("CMP", encoding, operands, { flags: "set" }, cmp);
insn("CMP", "82 /7", "Eb,Ib", { flags: "set", mode: "no64" }, cmp);

const test = (c: Insn): void => {
  const a = c.read(0);
  c.logicFlags(c.bits(0), a.and(c.read(1)));
};
const TEST_FORMS: readonly [string, string][] = [
  ["84", "Eb,Gb"],
  ["85", "Ev,Gv"],
  ["A8", "AL,Ib"],
  ["A9", "rAX,Iz"],
  ["F6 /0", "Eb,Ib"],
  ["F7 /0", "Ev,Iz"],
  ["F6 /1", "Eb,Ib"],
  ["F7 /1", "Ev,Iz"],
];
for (const [encoding, operands] of TEST_FORMS) insn("TEST", encoding, operands, { flags: "set" }, test);

for (const [name, kind, digit, one] of [
  ["INC", FlagKind.INC, 0, 1n],
  ["DEC", FlagKind.DEC, 1, -1n],
] as const) {
  const describe = (c: Insn): void => {
    // CF stays: it must be known before the operation's own flags replace what it follows from.
    const carry = c.variant.noFlags ? c.i32(0) : c.call<I32>(carryFlag);
    modifyWithFlags(c, (old) => {
      const result = old.add(one);
      return {
        result,
        flags: () => {
          c.flags(kind, c.bits(0), undefined, result);
          if (!c.variant.noFlags) set32(c, Cpu.FLAG_AUX, carry);
        },
      };
    });
  };
  insn(name, `FE /${digit}`, "Eb+", { lock: true, flags: "partial" }, describe);
  insn(name, `FF /${digit}`, "Ev+", { lock: true, flags: "partial" }, describe);
  insn(name, `${hex(0x40 + 8 * digit)} +r`, "Zv+", { mode: "no64", flags: "partial" }, describe);
}

const neg = (c: Insn): void =>
  modifyWithFlags(c, (old) => {
    const result = c.i64(0).sub(old);
    return { result, flags: () => c.flags(FlagKind.SUB, c.bits(0), c.i64(0), result) };
  });
insn("NEG", "F6 /3", "Eb+", { lock: true, flags: "set" }, neg);
insn("NEG", "F7 /3", "Ev+", { lock: true, flags: "set" }, neg);

const not = (c: Insn): void => c.modify(0, (old) => old.not());
insn("NOT", "F6 /2", "Eb+", { lock: true, flags: "none" }, not);
insn("NOT", "F7 /2", "Ev+", { lock: true, flags: "none" }, not);

for (const [name, prefix, flag] of [
  ["ADCX", "66", 1],
  ["ADOX", "F3", 0x800],
] as const)
  insn(name, `${prefix} 0F 38 F6`, "Gy+,Ey", { feature: "adx" }, (c) => {
    const bits = c.bits(0);
    const flags = c.flagsImage();
    const carry = flags.and(flag).ne(0).u64();
    const a = c.read(0);
    const b = c.read(1);
    const sum = c.let(a.add(b).add(carry));
    const out = bits === 64 ? sum.ltU(a).or(sum.eq(a).and(carry.wrap())) : sum.shrU(32).wrap().and(1);
    c.write(0, sum);
    c.explicitFlags(flags.and(~flag).or(out.mul(flag)));
  });
