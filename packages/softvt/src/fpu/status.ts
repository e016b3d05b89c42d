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

/** The tag word as it is stored: 00 valid, 01 zero, 10 special, 11 empty (SDM Vol. 1 sec. 8.1.7), two bits a register. */
export const fullTags = fn("x87FullTags", [], "i32", (f) => {
  const kept = get32(f, Cpu.FTW);
  let tags: I32 = f.i32(0);
  for (let i = 0; i < 8; i++) {
    const sig = f.load("i64.load", f.cpu, Cpu.FPR + 16 * i);
    const exp = f.load("i32.load16_u", f.cpu, Cpu.FPR + 16 * i + 8).and(0x7fff);
    const zero = exp.eqz().and(sig.eqz());
    const special = exp.eqz().or(exp.eq(0x7fff)).or(sig.geS(0));
    const isEmpty = kept
      .shrU(2 * i)
      .and(3)
      .eq(3);
    const tag = isEmpty.select(f.i32(3), zero.select(f.i32(1), special.shl(1)));
    tags = f.let(tags.or(tag.shl(2 * i)));
  }
  f.return(tags);
});

/** Takes over a tag word: a register is empty or not, whatever else is said of it. */
export const loadTags = fn("x87LoadTags", ["i32"], undefined, (f, tags) => {
  const both = tags.and(tags.shrU(1)).and(0x5555);
  set32(f, Cpu.FTW, both.or(both.shl(1)));
});

/** Takes over a status word, its TOP and, from the flags, ES and B. */
export const loadStatus = fn("x87LoadStatus", ["i32"], undefined, (f, status) => {
  set32(f, Cpu.TOP, status.shrU(11).and(7));
  set32(f, Cpu.FSW, status.and(0x477f));
  f.call(updateSummary);
});
