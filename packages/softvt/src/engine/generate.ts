import "../isa/index.ts";
import { arithmeticFlags, writeFlags } from "../cpu/flags.ts";
import { codeAddress, enterRegion } from "../cpu/lookup.ts";
import { updateMode } from "../cpu/mode.ts";
import { dropWriteTags, flushNtlb, flushTlb } from "../cpu/paging.ts";
import { updateSse } from "../cpu/sse-state.ts";
import { buildHandlers } from "../isa/handlers.ts";
import { packTable } from "../isa/table.ts";
import { generateModule } from "./interpreter.ts";
import { LAYOUT_SECTION, layoutFingerprint, TABLE_SECTION } from "./sections.ts";

const EXPORTED = [
  updateSse,
  flushTlb,
  flushNtlb,
  dropWriteTags,
  updateMode,
  arithmeticFlags,
  writeFlags,
  codeAddress,
  enterRegion,
];

/** The engine's module, generated from the descriptions, with the table that decodes for it inside. */
export function generateEngine(): Uint8Array<ArrayBuffer> {
  const handlers = buildHandlers();
  return generateModule(handlers, EXPORTED, {
    [TABLE_SECTION]: packTable(handlers),
    [LAYOUT_SECTION]: layoutFingerprint(),
  });
}
