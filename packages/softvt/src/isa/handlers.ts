import type { EaKind } from "../cpu/address.ts";
import type { Stmt } from "../ir/ir.ts";
import { fuse, fusible } from "./fuse.ts";
import { isHot } from "./hot.ts";
import { describeVariant, type InsnSpec, SPECS, type Variant } from "./registry.ts";
import { SPECIAL, type SpecialName } from "./special.ts";
import { type DecodeTable, type Form, formIndex, sizesOf } from "./table.ts";

/** One entry of the interpreter: inline case or function, by `hot`. */
export interface Handler {
  readonly name: string;
  readonly hot: boolean;
  describe(): { stmts: Stmt[]; temps: number };
  /** What it was made from; `undefined` for those that stand for no instruction. */
  readonly variant?: Variant;
  /** The condition of the Jcc fused with it. */
  readonly fused?: number;
}

export interface HandlerTable extends DecodeTable {
  /** Hot handlers first: those are the interpreter's inline cases. */
  readonly list: readonly Handler[];
  readonly hotCount: number;
}

const HOT_EA: readonly EaKind[] = ["base64", "index64", "base32", "index32"];

/** Builds the table from everything that `insn()` declared. Cheap: descriptions run when code is generated. */
export function buildHandlers(): HandlerTable {
  const hot: Handler[] = [];
  const cold: Handler[] = [];
  // Cold handlers come after the hot ones: their numbers are negative until the hot ones are counted.
  const add = (handler: Handler): number => (handler.hot ? hot.push(handler) - 1 : -cold.push(handler));
  const special = {} as Record<SpecialName, number>;
  for (const [name, describe] of Object.entries(SPECIAL))
    special[name as SpecialName] = add({ name, hot: true, describe });

  const forms = new Map<InsnSpec, (Form | undefined)[]>();
  const vexForms = new Map<InsnSpec, (Form | undefined)[]>();
  for (const spec of SPECS) {
    const list: (Form | undefined)[] = [];
    (spec.vex === undefined ? forms : vexForms).set(spec, list);
    for (const opsize of sizesOf(spec))
      for (const memory of [false, true]) {
        if (!hasForm(spec, memory)) continue;
        const variant = (ea: EaKind, noFlags: boolean): Variant => ({
          name: `${spec.name}_${spec.opcode.toString(16)}_${opsize}${memory ? `_${ea}` : ""}${noFlags ? "_nf" : ""}`,
          spec,
          opsize,
          memory,
          ea,
          noFlags,
        });
        const addVariant = (v: Variant): number =>
          add({ name: v.name, hot: isHot(v), describe: () => describeVariant(v), variant: v });
        const handlers: Form["handlers"] = {};
        const kinds: readonly EaKind[] = !memory
          ? ["any"]
          : spec.operands.some((o) => o.kind === "O")
            ? ["absolute"]
            : ["any", ...HOT_EA];
        for (const ea of kinds) {
          const plain = variant(ea, false);
          if (HOT_EA.includes(ea) && !isHot(plain)) continue;
          const wanted = addVariant(plain);
          const dead = variant(ea, true);
          handlers[ea] = {
            wanted,
            dead:
              (spec.flags === "set" || spec.flags === "partial") && isHot(dead) ? addVariant(dead) : wanted,
          };
        }
        const fused =
          !memory && fusible(spec, opsize)
            ? Array.from({ length: 16 }, (_, cc) => {
                const v = variant("any", false);
                const name = `${v.name}_j${cc}`;
                return add({ name, hot: true, describe: () => fuse(v, cc), variant: v, fused: cc });
              })
            : undefined;
        list[formIndex(opsize, memory)] = { spec, opsize, memory, handlers, fused };
      }
  }
  const number = (n: number): number => (n < 0 ? hot.length - n - 1 : n);
  for (const list of [...forms.values(), ...vexForms.values()])
    for (const form of list)
      for (const pair of Object.values(form?.handlers ?? {})) {
        pair.wanted = number(pair.wanted);
        pair.dead = number(pair.dead);
      }
  for (const name of Object.keys(special) as SpecialName[]) special[name] = number(special[name]);
  return { list: [...hot, ...cold], hotCount: hot.length, forms, vexForms: () => vexForms, special };
}

function hasForm(spec: InsnSpec, memory: boolean): boolean {
  const operand = spec.operands.find((o) => o.forms !== "both");
  if (spec.operands.some((o) => o.kind === "O")) return memory;
  if (operand !== undefined) return (operand.forms === "mem") === memory;
  const modrm = spec.operands.some((o) => o.kind === "E" || o.kind === "W" || o.kind === "Q");
  return modrm || !memory;
}
