import type { Node, Stmt } from "../ir/ir.ts";
import { narrow } from "../ir/narrow.ts";
import { normalize, parts } from "../ir/normalize.ts";
import type { Handler } from "../isa/handlers.ts";
import { assumeMode } from "./assume.ts";
import { blockOffset, type Effects, effectsOf, effectsOfBody, passesBlock } from "./effects.ts";
import { FIRST_INDEXED, placeAt, REG_TYPES } from "./layout.ts";

/** A handler with more statements than this is called, if it can be. */
const MAX_INLINE = 60;

/** What is known of a description without its micro-op. */
export interface Facts {
  readonly stmts: Stmt[];
  /** All temps' numbers are below. */
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
  const made = measure(stmts, temps);
  known.set(recorded, made);
  return made;
}

function measure(stmts: Stmt[], temps: number): Facts {
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
  return { stmts, temps, sets, size, effects, storesUnderCondition };
}

function touchesLocals(address: Node, offset: number): boolean {
  const at = blockOffset(address);
  if (at === undefined) return false;
  const constant = at.constant + offset;
  if (at.indexed) return constant < FIRST_INDEXED;
  const { kind } = placeAt(constant);
  return kind !== "memory" && kind !== "event";
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

const ofModes = new WeakMap<Handler, (Facts | undefined)[]>();

/** The same for code of one mode (`Cpu.MODE`), with temps numbered from behind a region's locals on. */
export function factsInMode(handler: Handler, mode: number): Facts {
  let modes = ofModes.get(handler);
  if (modes === undefined) {
    modes = [];
    ofModes.set(handler, modes);
  }
  let done = modes[mode];
  if (done === undefined) {
    const base = REG_TYPES.length;
    const { stmts, temps, sets } = factsOfHandler(handler);
    const inMode = measure(assumeMode(stmts, { mode, base, sets }), base + temps);
    done = measure(narrow(inMode.stmts, inMode.temps, inMode.sets), inMode.temps);
    modes[mode] = done;
  }
  return done;
}

/** Whether a region calls the handler, which is a function of its own, instead of holding its code. */
export function isCalled(handler: Handler): boolean {
  return !handler.hot && factsOfHandler(handler).size > MAX_INLINE;
}
