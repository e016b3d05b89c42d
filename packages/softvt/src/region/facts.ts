import type { Node, Stmt } from "../ir/ir.ts";
import { normalize, parts } from "../ir/normalize.ts";
import type { Handler } from "../isa/handlers.ts";
import { blockOffset, type Effects, effectsOf, effectsOfBody, passesBlock } from "./effects.ts";
import { FIRST_INDEXED, placeAt } from "./layout.ts";

/** A handler with more statements than this is called, if it can be. */
const MAX_INLINE = 60;

/** What is known of a description without its micro-op. */
export interface Facts {
  readonly stmts: Stmt[];
  readonly temps: number;
  /** How often each temp is assigned. */
  readonly sets: Uint8Array;
  /** Statements in all. */
  readonly size: number;
  readonly effects: Readonly<Effects>;
  /** Stores to the vCPU block under a condition: loads must copy, not alias. */
  readonly storesUnderCondition: boolean;
}

const known = new WeakMap<Stmt[], Facts>();
const ofHandlers = new WeakMap<Handler, Facts>();

/** Of statements as recorded; kept, with every expression that has several users named (ir/normalize.ts). */
export function factsOf(recorded: Stmt[], recordedTemps: number): Facts {
  const done = known.get(recorded);
  if (done !== undefined) return done;
  const { stmts, temps } = normalize(recorded, recordedTemps);
  const sets = new Uint8Array(temps);
  let size = 0;
  let storesUnderCondition = false;
  const walk = (list: readonly Stmt[], depth: number): void => {
    for (const stmt of list) {
      size++;
      if ((stmt.s === "set" || stmt.s === "load" || stmt.s === "call") && stmt.id !== undefined)
        sets[stmt.id] = Math.min(255, sets[stmt.id]! + 1);
      if (depth > 0) {
        if (stmt.s === "store" && touchesLocals(stmt.address, stmt.offset)) storesUnderCondition = true;
        if (stmt.s === "call") {
          const e = effectsOf(stmt.fn);
          if (e.writesGprs || e.writesFlags || e.writesTlb || passesBlock(stmt.args))
            storesUnderCondition = true;
        }
      }
      for (const inner of parts(stmt).lists) walk(inner, depth + 1);
    }
  };
  walk(stmts, 0);
  const effects = effectsOfBody(stmts);
  const made = { stmts, temps, sets, size, effects, storesUnderCondition };
  known.set(recorded, made);
  return made;
}

function touchesLocals(address: Node, offset: number): boolean {
  const at = blockOffset(address);
  if (at === undefined) return false;
  const constant = at.constant + offset;
  return at.indexed ? constant < FIRST_INDEXED : placeAt(constant).kind !== "memory";
}

export function factsOfHandler(handler: Handler): Facts {
  let done = ofHandlers.get(handler);
  if (done === undefined) {
    const { stmts, temps } = handler.describe();
    done = factsOf(stmts, temps);
    ofHandlers.set(handler, done);
  }
  return done;
}

/** Whether a region calls the handler, which is a function of its own, instead of holding its code. */
export function isCalled(handler: Handler): boolean {
  return !handler.hot && factsOfHandler(handler).size > MAX_INLINE;
}
