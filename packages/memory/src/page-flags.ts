/**
 * One byte of flags per 4 KiB page of the arena, itself in the arena: the engine's generated code, DMA and
 * the dirty log read and write the same bytes.
 */
export const PageFlag = {
  /** Written since the dirty log last cleared it. */
  DIRTY: 0x01,
  /** An engine has decoded instructions from this page: writes must be reported to its code watcher. */
  CODE: 0x02,
} as const;
