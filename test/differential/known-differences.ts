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
    names: /^(CMPS|SCAS)/,
    reason: "which operand is read first, and so faults, is the processor's own affair",
    applies: (_, host, engine) => bothPageFault(host, engine) && host.rip === engine.rip,
  },
  {
    names: /^ARPL$/,
    reason: "AMD reads before it knows that it writes: the error code's W bit",
    applies: (_, host, engine) => bothPageFault(host, engine) && (errorCode(host) ^ errorCode(engine)) === 2,
  },
  {
    names: /^(FISTT?P?|FST|FSTP|FBSTP)$/,
    reason: "AMD looks at the destination before it finds an unmasked exception that keeps it from being written",
    applies: ({ state }, host) =>
      host.end.kind === "fault" && host.end.vector === PAGE_FAULT && (state.fx.fcw & 0x3f) !== 0x3f,
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
  [/^R(CP|SQRT)[PS]S$/, "an approximation, every vendor has its own: within the SDM's error by fpu-sse-host"],
  [
    /^(F2XM1|FYL2X|FYL2XP1|FPTAN|FPATAN|FSIN|FCOS|FSINCOS)$/,
    "the last bit differs between vendors: compared with a tolerance by fpu-transcendental-host",
  ],
  [/^INT1$/, "the host's kernel treats its trap as the harness's own"],
];

export function testedElsewhere(name: string): string | undefined {
  return ELSEWHERE.find(([pattern]) => pattern.test(name))?.[1];
}
