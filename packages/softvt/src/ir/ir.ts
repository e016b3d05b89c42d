import type { LoadName, StoreName, WasmType } from "../wasm/opcodes.ts";

/**
 * The engine's intermediate representation: what a description says, recorded once and consumed by every
 * back end (the interpreter's cases, helper functions, the region compiler, the BigInt evaluator).
 *
 * Expressions are pure: they depend on constants, temps and micro-op fields only, so a back end may
 * evaluate one late, twice or never. Everything with an order (loads, stores, calls, control) is a
 * statement.
 */
export type Node =
  | { readonly k: "const"; readonly type: WasmType; readonly value: number | bigint }
  | { readonly k: "temp"; readonly type: WasmType; readonly id: number }
  | { readonly k: "field"; readonly type: "i32"; readonly field: UopField }
  /** Address of the micro-op being executed. */
  | { readonly k: "uop"; readonly type: "i32" }
  /** Address of the vCPU block. */
  | { readonly k: "cpu"; readonly type: "i32" }
  | {
      readonly k: "op";
      readonly type: WasmType;
      readonly op: string;
      readonly args: readonly Node[];
      readonly lanes?: readonly number[];
    }
  | {
      readonly k: "select";
      readonly type: WasmType;
      readonly cond: Node;
      readonly yes: Node;
      readonly no: Node;
    };

/** Fields of a micro-op; see cpu/uop.ts for their offsets and meaning. */
export type UopField = "pos" | "a" | "b" | "c" | "d" | "imm" | "imm2";

/** A loop or block that `break` and `continue` name. */
export interface Label {
  readonly kind: "loop" | "block";
}

export type Stmt =
  | { readonly s: "set"; readonly id: number; readonly type: WasmType; readonly value: Node }
  | {
      readonly s: "load";
      readonly id: number;
      readonly op: LoadName;
      readonly address: Node;
      readonly offset: number;
    }
  | {
      readonly s: "store";
      readonly op: StoreName;
      readonly address: Node;
      readonly offset: number;
      readonly value: Node;
    }
  | { readonly s: "call"; readonly id: number | undefined; readonly fn: Fn; readonly args: readonly Node[] }
  | {
      readonly s: "if";
      readonly cond: Node;
      readonly yes: Stmt[];
      readonly no: Stmt[];
      readonly likely: boolean | undefined;
    }
  | { readonly s: "loop"; readonly label: Label; readonly body: Stmt[] }
  | { readonly s: "block"; readonly label: Label; readonly body: Stmt[] }
  | { readonly s: "break"; readonly label: Label }
  | { readonly s: "continue"; readonly label: Label }
  | { readonly s: "switch"; readonly index: Node; readonly cases: Stmt[][]; readonly default: Stmt[] }
  | { readonly s: "return"; readonly value: Node | undefined }
  | { readonly s: "copy"; readonly to: Node; readonly from: Node; readonly length: Node }
  | { readonly s: "fill"; readonly to: Node; readonly value: Node; readonly length: Node }
  /** Ends an instruction: see `Ending`. */
  | { readonly s: "end"; readonly how: Ending };

/**
 * How an instruction hands on control.
 * - `next`: the next micro-op in sequence (every description's default).
 * - `skip`: the one after the next (a fused pair).
 * - `jump`: a branch within the page, to the micro-op whose address stands at arena address `link`; while that
 *   is 0, to `rip`, which is then looked up and the link patched. `slots`: instructions that it counts for.
 * - `branch`: to `rip`, looked up.
 * - `lookup`: not an instruction of its own; go on at `rip`.
 * - `goto`: not an instruction of its own; go on at micro-op `to`.
 * - `leave`: the dispatcher looks at the vCPU block's `event` (exception, exit, branch to `Cpu.RIP`).
 */
export type Ending =
  | { readonly kind: "next" | "skip" | "leave" }
  | { readonly kind: "jump"; readonly link: Node; readonly rip: Node; readonly slots?: 1 | 2 }
  | { readonly kind: "branch" | "lookup"; readonly rip: Node; readonly slots?: 1 | 2 }
  | { readonly kind: "goto"; readonly to: Node }
  /** The micro-op that stands for a compiled region: call it. */
  | { readonly kind: "region" }
  /** Within a region only: take an edge of its control flow graph, by number. */
  | { readonly kind: "edge"; readonly edge: number }
  /** In the dispatcher itself only: go to one of its parts. */
  | { readonly kind: "part"; readonly part: DispatcherPart };

export type DispatcherPart = "slow" | "lookup" | "dispatch" | "region" | "exit";

/** The expressions of an ending. */
export function endingNodes(how: Ending): readonly Node[] {
  switch (how.kind) {
    case "jump":
      return [how.link, how.rip];
    case "branch":
    case "lookup":
      return [how.rip];
    case "goto":
      return [how.to];
    default:
      return [];
  }
}

/** The same ending with its expressions replaced. */
export function mapEnding(how: Ending, node: (n: Node) => Node): Ending {
  switch (how.kind) {
    case "jump":
      return { ...how, link: node(how.link), rip: node(how.rip) };
    case "branch":
    case "lookup":
      return { ...how, rip: node(how.rip) };
    case "goto":
      return { kind: "goto", to: node(how.to) };
    default:
      return how;
  }
}

/** A function of the generated module: described in the same language, or imported from the host. */
export interface Fn {
  readonly name: string;
  readonly params: readonly WasmType[];
  readonly result: WasmType | undefined;
  /** `undefined` for an import. Recorded on first use, so that functions may call one another. */
  readonly body: (() => FnBody) | undefined;
}

export interface FnBody {
  /** Temps 0 to params.length - 1 are the parameters. */
  readonly stmts: Stmt[];
  readonly temps: number;
}
