import { type Builder, fn, type I32, type I64, type Value } from "../ir/builder.ts";
import type { Fn } from "../ir/ir.ts";
import { Cpu, Event, TLB_BYTES, TlbMode } from "./layout.ts";
import { Access, readSlow, writeSlow } from "./memory.ts";
import { translateGpa } from "./paging.ts";
import { get32, get64, HAS_ERROR_CODE, set32 } from "./state.ts";

/**
 * What the system half of the processor is written with: faults chosen at run time, and the processor's own
 * accesses to descriptor tables and task-state segments, which are made as a supervisor whatever the
 * CPL is (SDM Vol. 3A sec. 4.6.1, "implicit supervisor-mode access").
 */

export const LOW32 = 0xffff_ffffn;

/** As `raise` of cpu/state.ts, with a vector known only at run time. */
export const raiseAt = fn("raiseAt", ["i32", "i32"], undefined, (f, vector, error) => {
  set32(f, Cpu.EXC_VECTOR, vector);
  set32(f, Cpu.EXC_ERROR, error);
  set32(f, Cpu.EXC_HAS_ERROR, f.i32(HAS_ERROR_CODE).shrU(vector).and(1));
  set32(f, Cpu.EVENT, Event.FAULT);
});

/** In a function: raises `vector` with `error` and returns where `cond` holds. */
export function refuse(
  f: Builder,
  cond: I32,
  vector: I32 | number,
  error: I32 | number = 0,
  result?: Value,
): void {
  const value = (x: I32 | number): I32 => (typeof x === "number" ? f.i32(x) : x);
  f.unlikely(cond, () => {
    f.call(raiseAt, value(vector), value(error));
    f.return(result);
  });
}

/** In a function: returns if a call set EVENT. */
export function returnOnEvent(f: Builder, result?: Value): void {
  f.unlikely(get32(f, Cpu.EVENT), () => f.return(result));
}

/** Address of the TLB of access mode `mode`. */
export const tlbAt = (f: Builder, mode: number): I32 => f.cpu.add(Cpu.TLBS + mode * TLB_BYTES);

/** 1 in IA-32e mode (64-bit and compatibility mode). */
export const longMode = (f: Builder): I32 => get64(f, Cpu.EFER).bit(10);

/** The mask of linear addresses: all of them in IA-32e mode, else 32 bits. */
export const linearMask = (f: Builder): I64 => longMode(f).select(f.i64(-1), f.i64(LOW32));

/** 1 where `va` is not canonical (48-bit linear addresses). */
export const nonCanonical = (va: I64): I32 => va.shl(16).shrS(16).ne(va);

const crosses = (va: I64, bytes: number): I32 =>
  va
    .wrap()
    .and(0xfff)
    .gtU(4096 - bytes);

/**
 * Reads of 8 to 64 bits at a linear address, made as a supervisor. Test EVENT after them.
 *
 * Where the bytes lie in two pages they are read one by one: the ordinary slow path wraps at 4 GiB by code
 * size, and compatibility mode reads descriptors above it.
 */
export const systemRead: Record<number, Fn> = {};
/** Writes, as `systemRead`: (address, value). */
export const systemWrite: Record<number, Fn> = {};

for (const bits of [8, 16, 32, 64]) {
  const bytes = bits / 8;
  systemRead[bits] = fn(`systemRead${bits}`, ["i64"], "i64", (f, va) => {
    const at = f.let(va.and(linearMask(f)));
    const tlb = tlbAt(f, TlbMode.SUPERVISOR);
    if (bytes > 1)
      f.unlikely(crosses(at, bytes), () => {
        const value = f.variable("i64", f.i64(0));
        for (let i = 0; i < bytes; i++) {
          value.set(value.get().or(f.call<I64>(systemRead[8]!, at.add(i)).shl(8 * i)));
          returnOnEvent(f, f.i64(0));
        }
        f.return(value.get());
      });
    f.return(f.call<I64>(readSlow[bits]!, at, f.i32(Access.READ), tlb));
  });
  systemWrite[bits] = fn(`systemWrite${bits}`, ["i64", "i64"], undefined, (f, va, value) => {
    const at = f.let(va.and(linearMask(f)));
    const tlb = tlbAt(f, TlbMode.SUPERVISOR);
    if (bytes > 1)
      f.unlikely(crosses(at, bytes), () => {
        for (let i = 0; i < bytes; i++) {
          f.call(systemWrite[8]!, at.add(i), value.shrU(8 * i).and(0xff));
          returnOnEvent(f);
        }
        f.return();
      });
    f.call(writeSlow[bits]!, at, value, f.i32(Access.WRITE), tlb);
  });
}

/** Leaves a function's caller at a branch: `Cpu.RIP` has been set. */
export function branched(f: Builder): void {
  set32(f, Cpu.EVENT, Event.BRANCH);
}

/** Reads 64 bits at a guest-physical address; all ones where there is no RAM. */
export const systemReadPhysical = fn("systemReadPhysical", ["i64"], "i64", (f, gpa) => {
  const page = f.call(translateGpa, gpa);
  f.if(page.eqz(), () => f.return(f.i64(-1)));
  f.return(f.load("i64.load", page.and(-4096).or(gpa.wrap().and(0xfff))));
});
