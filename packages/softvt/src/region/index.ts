import "../isa/index.ts";
import { buildHandlers, type Handler } from "../isa/handlers.ts";

export { compileRegions, type RegionSource, regionName } from "./compile.ts";
export { isCalled } from "./facts.ts";
export { type Block, buildGraph, type CodeReader, type Uop } from "./graph.ts";

let list: readonly Handler[] | undefined;

/** Every handler by its number, with its description. */
export function allHandlers(): readonly Handler[] {
  list ??= buildHandlers().list;
  return list;
}
