/** Names and encodings that the generated module, its host and compiled regions share. */

/** Export: calls handler number `handler`, a function of its own, for the micro-op at `uop`; gives its result. */
export const CALL_HANDLER = "callHandler";
/** Export: table of compiled regions, functions of (budget left, entry) that return the budget left. */
export const REGION_TABLE = "regions";
/** In a `region` micro-op's word at offset 4: the entry's number, above it the region's place in the table. */
export const REGION_ENTRY_BITS = 12;
export const REGION_WORD_OFFSET = 4;
