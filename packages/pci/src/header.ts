/**
 * The type 0 configuration header (PCI Local Bus 3.0, fig. 6-1; PCI Express 5.0 sec. 7.5.1). Offsets in bytes; the
 * width of a register is where the next one begins.
 */
export const HEADER = {
  VENDOR_ID: 0x00, // RO
  DEVICE_ID: 0x02, // RO
  COMMAND: 0x04, // RW  see COMMAND
  STATUS: 0x06, // RO, RW1C  see STATUS
  REVISION_ID: 0x08, // RO
  CLASS_CODE: 0x09, // RO  three bytes: interface, subclass, class
  CACHE_LINE_SIZE: 0x0c, // RW  without effect
  LATENCY_TIMER: 0x0d, // RO  0: there is no arbitration
  HEADER_TYPE: 0x0e, // RO  see HEADER_TYPE
  BIST: 0x0f, // RO  0: no self-test
  BAR: 0x10, // RW  six dwords
  SUBSYSTEM_VENDOR_ID: 0x2c, // RO
  SUBSYSTEM_ID: 0x2e, // RO
  EXPANSION_ROM: 0x30, // RO  0: none
  CAPABILITIES: 0x34, // RO  offset of the first capability, or 0
  INTERRUPT_LINE: 0x3c, // RW  software's own note
  INTERRUPT_PIN: 0x3d, // RO  0: none, 1 to 4: INTA to INTD
} as const;

export const COMMAND = {
  IO_SPACE: 0x0001,
  MEMORY_SPACE: 0x0002,
  BUS_MASTER: 0x0004,
  PARITY_ERROR: 0x0040,
  SERR: 0x0100,
  INTX_DISABLE: 0x0400,
} as const;

export const STATUS = {
  /** RO: the function asserts its INTx, whether or not COMMAND lets it out. */
  INTERRUPT: 0x0008,
  /** RO: there is a capabilities list. */
  CAPABILITIES: 0x0010,
  /** RW1C: errors, none of which is ever reported here. */
  ERRORS: 0xf900,
} as const;

export const HEADER_TYPE = { MULTI_FUNCTION: 0x80 } as const;

/** BARs of a type 0 header. */
export const BAR_COUNT = 6;
/** First byte behind the header: capabilities lie from here to `CONVENTIONAL_BYTES`. */
export const HEADER_BYTES = 0x40;
/** Configuration space as configuration mechanism #1 reaches it. */
export const CONVENTIONAL_BYTES = 0x100;
/** A function's whole configuration space. */
export const CONFIG_BYTES = 0x1000;
