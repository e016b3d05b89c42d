/** The generator of instruction forms, proved by the host's processor: forms decode, and operands lie where they say. */

import { afterAll, describe, expect, it } from "vitest";
import { type Case, cases } from "./host-cpu/cases.ts";
import { differences } from "./host-cpu/compare.ts";
import { expand, type FormOperand, type InstructionSpec } from "./host-cpu/forms.ts";
import { CODE_START, HOST_LAYOUT, HostCpu, type HostResult } from "./host-cpu/host-cpu.ts";
import { parseOperands } from "./host-cpu/operands.ts";
import { Random } from "./host-cpu/random.ts";
import { fromTable, type TableEntry } from "./host-cpu/table.ts";

const opened = HostCpu.open();
const skipped = "unavailable" in opened ? opened.unavailable : "";
if (skipped) console.warn(`host form tests skipped: ${skipped}`);

/** Instructions of every encoding class, all defined in the modes that they name (SDM Vol. 2D app. A). */
const SPECS: readonly InstructionSpec[] = [
  { name: "ADD", opcode: 0x00, operands: "Eb+,Gb", lock: true },
  { name: "ADC", opcode: 0x11, operands: "Ev+,Gv", lock: true },
  { name: "SUB", opcode: 0x2b, operands: "Gv+,Ev" },
  { name: "XOR", opcode: 0x35, operands: "rAX+,Iz" },
  { name: "AND", opcode: 0x83, ext: 4, operands: "Ev+,Ib", lock: true },
  { name: "CMP", opcode: 0x81, ext: 7, operands: "Ev,Iz" },
  { name: "ROL", opcode: 0xd3, ext: 0, operands: "Ev+,CL" },
  { name: "MOV", opcode: 0xb8, operands: "Zv=,Iv" },
  { name: "MOV", opcode: 0xb0, operands: "Zb=,Ib" },
  { name: "MOV", opcode: 0xa1, operands: "rAX=,Ov" },
  { name: "MOVZX", map: 1, opcode: 0xb6, operands: "Gv=,Eb" },
  { name: "MOVSXD", opcode: 0x63, operands: "Gv=,Ed", modes: [64] },
  { name: "LEA", opcode: 0x8d, operands: "Gv=,M", role: "address" },
  { name: "IMUL", opcode: 0x69, operands: "Gv=,Ev,Iz" },
  { name: "DIV", opcode: 0xf7, ext: 6, operands: "Ev" },
  { name: "XCHG", opcode: 0x87, operands: "Ev+,Gv+", lock: true },
  { name: "CMPXCHG", map: 1, opcode: 0xb1, operands: "Ev+,Gv", lock: true, role: "compare" },
  { name: "CMPXCHG8B", map: 1, opcode: 0xc7, ext: 1, operands: "Mq+", lock: true, role: "compare" },
  { name: "BTS", map: 1, opcode: 0xab, operands: "Ev+,Gv", lock: true, role: "bits" },
  { name: "SHLD", map: 1, opcode: 0xa4, operands: "Ev+,Gv,Ib" },
  { name: "BSWAP", map: 1, opcode: 0xc8, operands: "Zv+" },
  { name: "PUSH", opcode: 0xff, ext: 6, operands: "Ev", size64: "d64", role: "stack" },
  { name: "POP", opcode: 0x58, operands: "Zv=", size64: "d64", role: "stack" },
  { name: "ENTER", opcode: 0xc8, operands: "Iw,Ib", size64: "d64", role: "frame" },
  { name: "LEAVE", opcode: 0xc9, operands: "", size64: "d64", role: "frame" },
  { name: "RET", opcode: 0xc3, operands: "", size64: "f64", sizes: [32], role: "return" },
  { name: "CALL", opcode: 0xe8, operands: "Jz", size64: "f64", role: "stack" },
  { name: "JMP", opcode: 0xff, ext: 4, operands: "Ev", size64: "f64", role: "branch" },
  { name: "JMPF", opcode: 0xff, ext: 5, operands: "Mp", sizes: [32], role: "far-branch" },
  { name: "JE", opcode: 0x74, operands: "Jb", size64: "f64" },
  { name: "LOOP", opcode: 0xe2, operands: "Jb", size64: "f64" },
  { name: "MOVS", opcode: 0xa5, operands: "Yv=,Xv", rep: "rep" },
  { name: "CMPS", opcode: 0xa6, operands: "Xb,Yb", rep: "repe" },
  { name: "XLAT", opcode: 0xd7, operands: "AL+", role: "table" },
  { name: "MOV", opcode: 0x8e, operands: "Sw=,Ew", role: "selector", sizes: [32] },
  { name: "LES", opcode: 0xc4, operands: "Gv=,Mp", role: "selector", modes: [32] },
  { name: "BOUND", opcode: 0x62, operands: "Gv,Ma", modes: [32] },
  { name: "DAA", opcode: 0x27, operands: "AL+", modes: [32] },
  { name: "INC", opcode: 0x40, operands: "Zv+", modes: [32] },
  { name: "JMPF", opcode: 0xea, operands: "Ap", modes: [32], sizes: [32] },
  { name: "MOVQ", map: 1, opcode: 0x6e, prefix: 0x66, operands: "Vdq=,Ey" },
  { name: "ADDPS", map: 1, opcode: 0x58, operands: "Vps+,Wps" },
  { name: "ADDSD", map: 1, opcode: 0x58, prefix: 0xf2, operands: "Vsd+,Wsd" },
  { name: "CVTSI2SD", map: 1, opcode: 0x2a, prefix: 0xf2, operands: "Vsd=,Ey" },
  { name: "PADDB", map: 1, opcode: 0xfc, operands: "Pq+,Qq" },
  { name: "PSLLW", map: 1, opcode: 0x71, prefix: 0x66, ext: 6, operands: "Ux+,Ib" },
  { name: "MASKMOVDQU", map: 1, opcode: 0xf7, prefix: 0x66, operands: "Vdq,Udq", role: "masked-store" },
  { name: "FADD", opcode: 0xd8, ext: 0, operands: "ST+,STi" },
  { name: "FADD", opcode: 0xdc, ext: 0, operands: "ST+,Mdr" },
  { name: "FLD", opcode: 0xdb, ext: 5, operands: "ST=,Mer" },
  { name: "FSIN", opcode: 0xd9, modrm: 0xfe, operands: "" },
];

describe.skipIf(skipped)(`instruction forms on the host's processor${skipped ? ` (${skipped})` : ""}`, () => {
  const cpu = opened as HostCpu;
  afterAll(() => cpu.close());
  const run = ({ code, state, options }: Case): HostResult => cpu.run(code, state, options);

  const memoryOf = (test: Case): (FormOperand & { kind: "memory" }) | undefined =>
    test.form.operands.find(
      (operand): operand is FormOperand & { kind: "memory" } => operand.kind === "memory",
    );

  describe.each([64, 32] as const)("in %i-bit mode", (mode) => {
    it.each(SPECS.map((spec) => [`${spec.name} ${spec.operands}`, spec] as const))(
      "%s decodes in every form",
      (_, spec) => {
        const random = new Random(11);
        let landed = 0;
        for (const test of cases(spec, random, { mode })) {
          const { end, rip } = run(test);
          const undefinedLock =
            test.name.includes("lock") && (!spec.lock || test.name.includes("lock register"));
          const reservedSegment = test.form.operands.some(
            (operand) => operand.kind === "segment" && (operand.register === 1 || operand.register > 5),
          );
          const vector = end.kind === "fault" ? end.vector : undefined;
          expect(end.kind, test.name).not.toBe("timeout");
          expect(vector === 6, `${test.name}: #UD`).toBe(undefinedLock || reservedSegment);
          if (end.kind !== "landed") continue;
          landed++;
          const target = test.form.operands.find(({ kind }) => kind === "target");
          const ends = [BigInt(CODE_START + test.code.length)];
          if (target?.kind === "target") ends.push(BigInt(target.address));
          if (!["branch", "return", "far-branch"].includes(spec.role ?? ""))
            expect(ends, test.name).toContain(rip);
        }
        if (!spec.modes || spec.modes.includes(mode)) expect(landed).toBeGreaterThan(0);
      },
    );

    it("loads from the address that the form names", () => {
      const random = new Random(12);
      const seen = new Set<string>();
      for (const test of cases({ name: "MOV", opcode: 0x8b, operands: "Gv=,Ev" }, random, {
        mode,
        perForm: 20,
      })) {
        const memory = memoryOf(test);
        if (!memory || test.name.includes("lock")) continue;
        const { end, gpr } = run(test);
        if (end.kind === "fault" && end.vector === 14) {
          const distance = end.address! - memory.address;
          expect(distance >= 0n && distance < BigInt(memory.bytes), test.name).toBe(true);
          seen.add("#PF");
          continue;
        }
        if (end.kind === "fault") {
          expect([12, 13], test.name).toContain(end.vector);
          expect((memory.address >> 47n) % 0x1ffffn, test.name).not.toBe(0n); // not canonical
          seen.add("#GP");
          continue;
        }
        const inside = memory.address < HOST_LAYOUT.READ_ONLY;
        const bytes = inside
          ? test.options.memory.find(({ address }) => BigInt(address) === memory.address)!.bytes
          : cpu.readOnly.subarray(Number(memory.address) - HOST_LAYOUT.READ_ONLY).subarray(0, memory.bytes);
        const value = bytes.reduceRight((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
        const register = test.form.operands[0]!;
        if (register.kind !== "gpr") throw new Error("the first operand is a register");
        expect(BigInt.asUintN(register.bits, gpr[register.register]!), test.name).toBe(value);
        seen.add(test.form.addressing!.shape.name);
      }
      expect(seen.size).toBe(mode === 64 ? 25 : 19); // 23 or 18 shapes, #PF, and #GP where addresses have 64 bits
    });

    it("meets equal operands, and branches both ways", () => {
      const random = new Random(13);
      const outcomes = new Set<number>();
      const spec: InstructionSpec = {
        name: "CMPXCHG",
        map: 1,
        opcode: 0xb1,
        operands: "Ev+,Gv",
        role: "compare",
      };
      for (const test of cases(spec, random, { mode, faults: false })) outcomes.add(run(test).rflags & 0x40);
      expect(outcomes).toEqual(new Set([0, 0x40]));
    });
  });

  describe("from an engine's table", () => {
    const entry = (
      name: string,
      opcode: number,
      operandText: string,
      more: Partial<TableEntry> = {},
    ): TableEntry => ({
      name,
      map: 0,
      opcode,
      digit: undefined,
      modrm: undefined,
      prefix: undefined,
      rexW: undefined,
      operandText,
      ...more,
    });
    const ENTRIES: readonly TableEntry[] = [
      entry("PUSH", 0x53, "Zv", { size64: "d64" }),
      entry("MOVSB", 0xa4, ""),
      entry("STOS", 0xab, "", { sizes: [16, 32, 64] }),
      entry("SCASB", 0xae, ""),
      entry("RETF", 0xcb, "", { sizes: [16, 32, 64] }),
      entry("IRET", 0xcf, "", { sizes: [16, 32, 64] }),
      entry("PUSHF", 0x9c, "", { size64: "d64" }),
      entry("POPF", 0x9d, "", { size64: "d64" }),
      entry("NOP", 0x1f, "Ev", { map: 1, digit: 0 }),
      entry("MOVBE", 0xf0, "Gv=,Mv", { map: 2, prefix: "", feature: "movbe" }),
      entry("POPCNT", 0xb8, "Gv=,Ev", { map: 1, prefix: "F3", feature: "popcnt" }),
      entry("MOVQ", 0x7e, "Ey=,Vx", { map: 1, prefix: "66", rexW: true }),
      entry("ANDN", 0xf2, "Gy=,By,Ey", { map: 2, prefix: "", vex: { l: 0 }, feature: "bmi1" }),
      entry("AAM", 0xd4, "Ib", { mode: "no64" }),
      entry("SHL", 0xd3, "Ev+,CL", { digit: 4 }),
      entry("BSF", 0xbc, "Gv=,Ev", { map: 1, prefix: "" }),
    ];

    it.each(ENTRIES.map((entry) => [entry.name, entry] as const))("runs %s", (name, entry) => {
      const spec = fromTable(entry);
      if ("unsuitable" in spec) throw new Error(spec.unsuitable);
      const lacking = spec.feature && cpu.features.lacks(spec.feature);
      if (lacking) return console.warn(`${name} skipped: ${lacking}`);
      let landed = 0;
      for (const mode of [64, 32] as const) {
        for (const test of cases(spec, new Random(21), { mode })) {
          const host = run(test);
          expect(host.end.kind, test.name).not.toBe("timeout");
          expect(host.end.kind === "fault" && host.end.vector === 6, `${test.name}: #UD`).toBe(
            test.name.includes("lock"),
          );
          expect(differences(test, host, host), test.name).toEqual([]);
          if (host.end.kind === "landed") landed++;
        }
      }
      expect(landed).toBeGreaterThan(0);
    });

    it("says why an entry cannot be asked about", () => {
      expect(fromTable(entry("RDTSC", 0x31, "", { map: 1 }))).toEqual({
        unsuitable: "its result is the host's own",
      });
      expect(() => fromTable(entry("ADD", 0x01, "Ev+,Gv", { feature: "mmy" }))).toThrow(
        /unknown feature mmy/,
      );
    });

    it("tells where results differ, and spares what is undefined", () => {
      const [test] = cases({ name: "AND", opcode: 0x23, operands: "Gd+,Rd" }, new Random(22));
      const host = run(test!);
      const register = test!.form.operands[0]!;
      if (register.kind !== "gpr") throw new Error("the first operand is a register");
      const gpr = host.gpr.slice();
      gpr[register.register] = gpr[register.register]! ^ 1n;
      expect(differences(test!, host, { ...host, gpr })).toHaveLength(1);
      expect(differences(test!, host, { ...host, rflags: host.rflags ^ 0x10 })).toEqual([]); // AF
      expect(differences(test!, host, { ...host, rflags: host.rflags ^ 0x40 })[0]).toMatch(
        /^rflags: host 0x/,
      );
      const end = { kind: "fault", vector: 14, errorCode: 6, address: 0x1000n } as const;
      expect(differences(test!, host, { ...host, end })).toEqual([
        "end: host landed, engine vector 14, error code 0x6 at 0x1000",
      ]);
    });
  });

  it("makes the same cases from the same seed", () => {
    const draw = (seed: number) =>
      [...cases(SPECS[1]!, new Random(seed))].map(({ name, code, state }) => [name, code, state.gpr]);
    expect(draw(5)).toEqual(draw(5));
    expect(draw(5)).not.toEqual(draw(6));
  });

  it("covers high bytes, extended registers, LOCK and every operand size", () => {
    const forms = SPECS.slice(0, 3).flatMap((spec) => expand(spec, new Random(4)));
    const registers = forms.flatMap(({ operands }) => operands.filter((o) => o.kind === "gpr"));
    expect(registers.some(({ high }) => high)).toBe(true);
    expect(
      registers.some(({ high, bits, register }) => !high && bits === 8 && register >= 4 && register < 8),
    ).toBe(true);
    expect(registers.some(({ register }) => register > 7)).toBe(true);
    expect(new Set(registers.map(({ bits }) => bits))).toEqual(new Set([8, 16, 32, 64]));
    expect(forms.some(({ code }) => code[0] === 0xf0)).toBe(true);
  });
});

describe("operand codes", () => {
  it("reads methods, types and accesses", () => {
    expect(parseOperands("Ev+,Gb=,CL,STi, 1")).toEqual([
      { code: "Ev", method: "E", type: "v", access: "read-write" },
      { code: "Gb", method: "G", type: "b", access: "write" },
      { code: "CL", method: "fixed", type: "", access: "read" },
      { code: "STi", method: "STi", type: "er", access: "read" },
      { code: "1", method: "fixed", type: "", access: "read" },
    ]);
    expect(parseOperands("")).toEqual([]);
    expect(() => parseOperands("Ek")).toThrow(RangeError);
    expect(() => parseOperands("T")).toThrow(RangeError);
  });
});
