/**
 * Random sequences against the host's processor. Flags that nobody reads are not kept, and a compare with the branch
 * behind it is one handler: that shows in no single instruction.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { SoftCpu } from "../../../test/differential/soft-cpu.ts";
import { type Case, cases, randomState } from "../../../test/host-cpu/cases.ts";
import { undefinedFlags } from "../../../test/host-cpu/compare.ts";
import { HostCpu, type HostResult } from "../../../test/host-cpu/host-cpu.ts";
import { Random } from "../../../test/host-cpu/random.ts";
import { fromTable } from "../../../test/host-cpu/table.ts";
import { type InsnSpec, SPECS } from "../src/isa/registry.ts";

const opened = HostCpu.open();
const skipped = "unavailable" in opened ? opened.unavailable : "";

const SEQUENCES = Number(process.env.SKEP_SEQUENCES ?? 20_000);
/** Of these sequences one in so many is compiled, too, which takes some ms each. */
const COMPILED_EVERY = Number(process.env.SKEP_COMPILED_EVERY ?? 10);
const SEED = Number(process.env.SKEP_DIFF_SEED ?? 1);

/** Instructions that neither fault nor branch in their register form. */
const MIXED = new RegExp(
  `^(${[
    "ADD|OR|ADC|SBB|AND|SUB|XOR|CMP|TEST|INC|DEC|NEG|NOT|MOV|MOVZX|MOVSX|MOVSXD|XCHG|BSWAP|SETcc|CMOVcc",
    "ROL|ROR|SHL|SHR|SAR|RCL|RCR|SHLD|SHRD|MUL|IMUL|LEA|CBW|CWD|BT|BTS|BTR|BTC|BSF|BSR|TZCNT|LZCNT|POPCNT",
    "XADD|CMPXCHG|CMC|CLC|STC|LAHF|SAHF|ADCX|ADOX|ANDN|BLSR|BLSI|BLSMSK|BZHI|BEXTR|SHLX|SHRX|SARX|RORX|MULX",
  ].join("|")})$`,
);

const { CF, PF, AF, ZF, SF, OF } = { CF: 1, PF: 4, AF: 0x10, ZF: 0x40, SF: 0x80, OF: 0x800 };
/** Flags that conditions 0 to 15 read, in pairs (SDM Vol. 1 app. B). */
const CONDITION_FLAGS = [OF, CF, ZF, CF | ZF, SF, PF, SF | OF, ZF | SF | OF];
const ALL = CF | PF | AF | ZF | SF | OF;

const flagsRead = ({ form }: Case): number => {
  const { name, opcode } = form.spec;
  if (/^(SETcc|CMOVcc)$/.test(name)) return CONDITION_FLAGS[(opcode >> 1) & 7]!;
  if (/^(ADC|SBB|RCL|RCR|CMC|ADCX)$/.test(name)) return CF;
  if (name === "ADOX") return OF;
  // LAHF shows them.
  return name === "LAHF" ? ALL & ~OF : 0;
};

/** Flags that an instruction writes with defined values, whatever they held before. */
const flagsSet = ({ form }: Case, { flags }: InsnSpec): number => {
  if (flags === "set") return ALL;
  const { name } = form.spec;
  if (/^(INC|DEC)$/.test(name)) return ALL & ~CF;
  if (/^(CLC|STC)$/.test(name)) return CF;
  return name === "SAHF" ? ALL & ~OF : 0;
};

interface Piece {
  readonly entry: InsnSpec;
  readonly test: Case;
}

describe.skipIf(skipped)(`sequences as the host has them${skipped ? ` (${skipped})` : ""}`, () => {
  const host = opened as HostCpu;
  const image = new Random(7).bytes(0x10000);
  let soft: SoftCpu;
  let compiled: SoftCpu;
  beforeAll(async () => {
    host.setImage(image);
    soft = await SoftCpu.open(host.readOnly);
    soft.setImage(image);
    compiled = await SoftCpu.open(host.readOnly, 0);
    compiled.setImage(image);
  });
  afterAll(async () => {
    host.close();
    await soft.close();
    await compiled.close();
  });

  function pieces(mode: 64 | 32): Piece[] {
    const pool: Piece[] = [];
    for (const entry of SPECS.filter(({ name }) => MIXED.test(name))) {
      const spec = fromTable(entry);
      if ("unsuitable" in spec || (spec.feature && host.features.lacks(spec.feature))) continue;
      if (spec.modes && !spec.modes.includes(mode)) continue;
      for (const test of cases(spec, new Random(SEED), { mode, perForm: 1, faults: false })) {
        const harmless = test.form.operands.every(
          ({ kind }) => kind === "gpr" || kind === "immediate" || kind === "fixed",
        );
        // RSP stays: a fault's frame is not on the guest's stack, but the harness looks at it.
        const writesStack = test.form.operands.some(
          (o) => o.kind === "gpr" && o.register === 4 && !o.high && o.access !== "read",
        );
        if (harmless && !writesStack && !test.name.includes("lock")) pool.push({ entry, test });
      }
    }
    return pool;
  }

  it.each([64, 32] as const)("in %i-bit mode, with branches", (mode) => {
    const random = new Random(SEED);
    const pool = pieces(mode);
    expect(pool.length).toBeGreaterThan(500);
    let compared = 0;
    let branches = 0;
    for (let n = 0; n < SEQUENCES; n++) {
      const state = randomState(random);
      const code: number[] = [];
      const names: string[] = [];
      /** Flags that vendors may leave different, so far. */
      let vague = 0;
      for (let i = random.between(2, 8); i > 0; i--) {
        const { entry, test } = random.pick(pool);
        if ((flagsRead(test) & vague) !== 0) continue;
        // What a count leaves undefined depends on CL as it is then: any count may come.
        const undefinedNow = undefinedAtWorst(test);
        if (undefinedNow === undefined) continue;
        vague = (vague & ~flagsSet(test, entry)) | undefinedNow;
        code.push(...test.code);
        names.push(test.name);
        if (!random.oneIn(3)) continue;
        const condition = random.below(16);
        if ((CONDITION_FLAGS[condition >> 1]! & vague) !== 0) continue;
        // Over `inc eax` (or `inc rax`): both ways lead on.
        const inc = mode === 64 ? [0x48, 0xff, 0xc0] : [0xff, 0xc0];
        code.push(0x70 | condition, inc.length, ...inc);
        names.push(`Jcc ${condition}`);
        branches++;
        // One way INC wrote all but CF, the other way nothing did: what was vague stays so.
      }
      if (code.length === 0) continue;
      const bytes = Uint8Array.from(code);
      const options = { mode, memory: [] };
      const actual = soft.run({ code: bytes, state, options });
      const how = { code: bytes, mode, flags: ALL & ~vague };
      compare(host.run(bytes, state, options), actual, names, how);
      if (n % COMPILED_EVERY === 0) {
        const result = compiled.run({ code: bytes, state, options });
        compareExactly(actual, result, ["compiled", ...names], how);
      }
      compared++;
    }
    console.log(`${compared} sequences of ${pool.length} forms in ${mode}-bit mode, ${branches} branches`);
    expect(compared).toBeGreaterThan(SEQUENCES / 2);
  });

  /** Status flags that the instruction may leave undefined with some count; `undefined`: its result, too. */
  function undefinedAtWorst(test: Case): number | undefined {
    const { name } = test.form.spec;
    const first = test.form.operands[0];
    if (/^BS[FR]$/.test(name) || (name === "BSWAP" && test.form.operandBits === 16)) return undefined;
    if (/^SH[LR]D$/.test(name) && test.form.operandBits === 16) return undefined;
    if (/^(SHL|SHR|SAR|ROL|ROR|RCL|RCR|SHLD|SHRD)$/.test(name)) {
      const narrow = first?.kind === "gpr" && first.bits < 32;
      return /^R/.test(name) ? OF : OF | AF | (narrow && name !== "SAR" ? CF : 0);
    }
    const landed = { end: { kind: "landed" }, rflags: 0 } as HostResult;
    return undefinedFlags(test, landed);
  }

  /** The interpreter and compiled code agree in all, undefined flags included. */
  function compareExactly(
    expected: ReturnType<SoftCpu["run"]>,
    actual: ReturnType<SoftCpu["run"]>,
    names: readonly string[],
    how: { code: Uint8Array; mode: 64 | 32 },
  ): void {
    compare(expected as HostResult, actual, names, { ...how, flags: ALL });
  }

  function compare(
    expected: HostResult,
    actual: ReturnType<SoftCpu["run"]>,
    names: readonly string[],
    { code, mode, flags }: { code: Uint8Array; mode: 64 | 32; flags: number },
  ): void {
    const found: string[] = [];
    const differ = (what: string, one: unknown, other: unknown): void => {
      if (one !== other) found.push(`${what}: host ${String(one)}, engine ${String(other)}`);
    };
    differ("end", expected.end.kind, actual.end.kind);
    differ("rip", expected.rip, actual.rip);
    expected.gpr.subarray(0, mode === 64 ? 16 : 8).forEach((value, i) => {
      differ(`register ${i}`, value.toString(16), actual.gpr[i]!.toString(16));
    });
    differ("rflags", expected.rflags & flags, actual.rflags & flags);
    if (found.length > 0)
      throw new Error(`${names.join(" | ")}\n${Buffer.from(code).toString("hex")}\n${found.join("\n")}`);
  }
});
