/**
 * Where the engine is right and the host may differ: each exception with its reason. The engine presents an Intel
 * processor; many hosts are AMD's.
 */
import type { Case } from "../host-cpu/cases.ts";
import type { EngineResult } from "../host-cpu/compare.ts";
import type { HostResult } from "../host-cpu/host-cpu.ts";

interface KnownDifference {
  readonly names: RegExp;
  readonly reason: string;
  readonly applies: (test: Case, host: HostResult, engine: EngineResult) => boolean;
}

const PAGE_FAULT = 14;
const ZF = 0x40;
const bothPageFault = (host: HostResult, engine: EngineResult): boolean =>
  host.end.kind === "fault" &&
  engine.end.kind === "fault" &&
  host.end.vector === PAGE_FAULT &&
  engine.end.vector === PAGE_FAULT;
const errorCode = ({ end }: Pick<HostResult, "end">): number => (end.kind === "fault" ? end.errorCode : 0);

const DIFFERENCES: readonly KnownDifference[] = [
  {
    names: /^(LSS|LFS|LGS|JMP|CALL)$/,
    reason: "AMD ignores REX.W for far pointers, Intel takes 16:64 (SDM Vol. 2, JMP; APM Vol. 3, JMP Far)",
    applies: (test) => test.form.operandBits === 64 && test.form.spec.operands.includes("Mp"),
  },
  {
    names: /^PREFETCHW?$/,
    reason: "the register form is #UD on AMD and a NOP on Intel",
    applies: (test) => test.form.addressing === undefined,
  },
  {
    names: /^PUSH$/,
    reason: "PUSH Sreg of 32 bits writes two bytes on Intel, four on AMD (SDM Vol. 2, PUSH)",
    applies: (test, host, engine) =>
      test.form.operandBits === 32 && host.end.kind === "landed" && engine.end.kind === "landed",
  },
  {
    names: /^((CMPS|SCAS|MOVS)[BWDQ]?|RETF)$/,
    reason: "where both accesses fault, which one does first is the processor's own affair",
    applies: (_, host, engine) =>
      host.end.kind === "fault" && engine.end.kind === "fault" && host.rip === engine.rip,
  },
  {
    names: /^(INS|OUTS)[BWD]?$/,
    reason: "a count of zero: AMD asks for permission all the same",
    applies: ({ state }, host, engine) =>
      host.end.kind === "fault" && engine.end.kind === "landed" && (state.gpr[1]! & 0xffffn) === 0n,
  },
  {
    names: /^CALL$/,
    reason: "where target and stack are both bad, AMD finds the stack first (SDM Vol. 2, CALL: the target)",
    applies: (_, host, engine) =>
      host.end.kind === "fault" &&
      engine.end.kind === "fault" &&
      host.end.vector === 12 &&
      engine.end.vector === 13,
  },
  {
    names: /^ARPL$/,
    reason: "AMD writes only what changes, the engine takes the operand for writing at once",
    applies: (_, host, engine) =>
      engine.end.kind === "fault" &&
      host.rip >= engine.rip &&
      (host.end.kind === "fault" || (host.rflags & ZF) === 0),
  },
  {
    names: /^FU?COMIP?$/,
    reason:
      "C1 is cleared, flags stay with an unmasked invalid operand (SDM Vol. 2, FCOMI); AMD does neither",
    applies: ({ state }, host, engine) =>
      (state.fx.fcw & 1) === 0 || (host.fx.fsw ^ (engine.fx?.fsw ?? 0)) === 0x200,
  },
  {
    names: /^(FISTT?P?|FST|FSTP|FBSTP)$/,
    reason:
      "AMD looks at the destination before it finds an unmasked exception that keeps it from being written",
    applies: ({ state }, host, engine) =>
      host.end.kind === "fault" && engine.end.kind === "landed" && (state.fx.fcw & 0x3f) !== 0x3f,
  },
  {
    names: /./,
    reason: "an address of the host's kernel: only the host has a page there (the error code's P bit)",
    applies: (_, host, engine) =>
      bothPageFault(host, engine) &&
      (errorCode(host) ^ errorCode(engine)) === 1 &&
      host.end.kind === "fault" &&
      (host.end.address ?? 0n) >> 63n === 1n,
  },
];

/** Why this difference is none, or `undefined`. */
export function knownDifference(test: Case, host: HostResult, engine: EngineResult): string | undefined {
  const { name } = test.form.spec;
  return DIFFERENCES.find((one) => one.names.test(name) && one.applies(test, host, engine))?.reason;
}

/** Instructions whose results vendors define differently or that have tests of their own, with the reason. */
const ELSEWHERE: readonly (readonly [RegExp, string])[] = [
  [
    /^V?R(CP|SQRT)[PS]S$/,
    "an approximation, every vendor has its own: within the SDM's error by fpu-approximations",
  ],
  [
    /^(F2XM1|FYL2X|FYL2XP1|FPTAN|FPATAN|FSIN|FCOS|FSINCOS)$/,
    "the last bit differs between vendors: compared with a tolerance by fpu-transcendental-host",
  ],
  [/^INT1$/, "the host's kernel treats its trap as the harness's own"],
];

export function testedElsewhere(name: string): string | undefined {
  return ELSEWHERE.find(([pattern]) => pattern.test(name))?.[1];
}
