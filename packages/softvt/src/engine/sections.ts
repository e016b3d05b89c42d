import { SkepError } from "@skep/vcpu";
import * as layout from "../cpu/layout.ts";
import { Slot } from "../cpu/slots.ts";
import { EA_OVERFLOW, EA_SEGMENT_SHIFT, EA_SIZE_SHIFT, UOP_FIELDS, VVVV_SHIFT } from "../cpu/uop.ts";
import { type DecodeTable, unpackTable } from "../isa/table.ts";

/**
 * Custom sections of the engine's module, by which it cannot be taken for another: it brings the table that says
 * which of its handlers an instruction is decoded to, and names the layout of the arena it was made for.
 */
export const TABLE_SECTION = "skep.table";
export const LAYOUT_SECTION = "skep.layout";

/**
 * The engine's WebAssembly module does not belong to the TypeScript around it: one of them is of another
 * build. Code `ENGINE_MISMATCH`.
 */
export class EngineMismatchError extends SkepError {
  constructor(what: string, expected: string, actual: string) {
    super(
      "ENGINE_MISMATCH",
      `the engine's WebAssembly module: expected ${what} ${expected}, got ${actual}; build @skep/softvt again`,
    );
  }
}

/**
 * The table that decodes for `module`.
 *
 * @throws EngineMismatchError where the module was generated for another layout, or brings no table.
 */
export function readDecodeTable(module: WebAssembly.Module): DecodeTable {
  const expected = layoutFingerprint();
  const actual = readSection(module, LAYOUT_SECTION);
  if (actual !== expected) throw new EngineMismatchError("layout", expected, actual ?? "none");
  const table = readSection(module, TABLE_SECTION);
  if (table === undefined) throw new EngineMismatchError("a section", TABLE_SECTION, "none");
  return unpackTable(table);
}

function readSection(module: WebAssembly.Module, name: string): string | undefined {
  const [section] = WebAssembly.Module.customSections(module, name);
  return section && new TextDecoder().decode(section);
}

/** Of where everything lies in the arena, in a vCPU block and in a micro-op: 8 hexadecimal digits. */
export function layoutFingerprint(): string {
  const facts: unknown[] = [Slot, UOP_FIELDS, EA_SEGMENT_SHIFT, EA_SIZE_SHIFT, EA_OVERFLOW, VVVV_SHIFT];
  // A namespace's names come sorted, whatever order a bundler put them in.
  for (const [name, value] of Object.entries(layout))
    if (typeof value !== "function") facts.push(name, value);
  const text = JSON.stringify(facts, (_key, value) => (typeof value === "bigint" ? `${value}n` : value));
  // FNV-1a: it tells versions apart and is no protection from somebody who forges one.
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return (hash >>> 0).toString(16).padStart(8, "0");
}
