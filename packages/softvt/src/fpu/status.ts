import { Cpu } from "../cpu/layout.ts";
import { get32, set32, set64 } from "../cpu/state.ts";
import { type Builder, fn, type I32 } from "../ir/builder.ts";
import { Flag } from "./env.ts";

/** The control word's bits; bit 6 always reads as 1 (SDM Vol. 1 fig. 8-6). */
const FCW_BITS = 0x1f3f;
const FCW_ONE = 0x40;
/** ES and B. */
const SUMMARY = 0x8080;

/** Loads a control word: an exception that is flagged may thereby become pending, or no longer be. */
export const loadControl = fn("x87LoadControl", ["i32"], undefined, (f, value) => {
  set32(f, Cpu.FCW, value.and(FCW_BITS).or(FCW_ONE));
  f.call(updateSummary);
});

/** ES and B as they follow from flags and masks. */
export const updateSummary = fn("x87UpdateSummary", [], undefined, (f) => {
  const status = get32(f, Cpu.FSW);
  const pending = status.and(get32(f, Cpu.FCW).xor(-1)).and(Flag.ALL).ne(0);
  set32(f, Cpu.FSW, status.and(~SUMMARY).or(pending.select(f.i32(SUMMARY), f.i32(0))));
});

/** The state after FNINIT (SDM Vol. 3A table 9-1). */
export const initX87 = fn("x87Init", [], undefined, (f) => {
  set32(f, Cpu.FCW, 0x37f);
  for (const field of [Cpu.FSW, Cpu.TOP, Cpu.FOP, Cpu.FCS, Cpu.FDS]) set32(f, field, 0);
  set32(f, Cpu.FTW, 0xffff);
  set64(f, Cpu.FIP, 0);
  set64(f, Cpu.FDP, 0);
});

/** The status word with TOP in it. */
export const statusWord = (f: Builder): I32 => get32(f, Cpu.FSW).or(get32(f, Cpu.TOP).shl(11));
