import { type Builder, fn, hostFn, type I32, type I64, type V128 } from "../ir/builder.ts";
import type { Fn } from "../ir/ir.ts";
import type { LoadName, StoreName } from "../wasm/opcodes.ts";
import { Cpu, Event, LINES, Mode, TLB_ENTRIES, TlbEntry } from "./layout.ts";
import { fill } from "./paging.ts";
import { get32, get64, set32, set64 } from "./state.ts";

/** What an access wants: the low two bits; STACK turns a non-canonical address's #GP into #SS. */
export const Access = { READ: 0, WRITE: 1, EXECUTE: 2, STACK: 8 } as const;

/** The host forgets the micro-ops decoded from arena bytes [address, address + length). */
export const codeWritten = hostFn("codeWritten", ["i32", "i32"], undefined);

const LOAD: Record<number, LoadName> = {
  8: "i64.load8_u",
  16: "i64.load16_u",
  32: "i64.load32_u",
  64: "i64.load",
};
const STORE: Record<number, StoreName> = {
  8: "i64.store8",
  16: "i64.store16",
  32: "i64.store32",
  64: "i64.store",
};

/** Address of the TLB entry of `va` in the TLB at `tlb`. */
export const entryOf = (tlb: I32, va: I64): I32 =>
  tlb.add(
    va
      .shrU(7)
      .wrap()
      .and((TLB_ENTRIES - 1) << 5),
  );

/**
 * Arena address of `va` for one access within its page: 0 if it raised (EVENT says what), 1 if there is no
 * RAM behind it (MISS_GPA says where).
 */
export const probe = fn("probe", ["i64", "i32", "i32"], "i32", (f, va, access, tlb) => {
  const entry = entryOf(tlb, va);
  const tag = f.load("i64.load", entry.add(access.and(3).shl(3)));
  f.if(tag.eq(va.and(~0xfffn)), () => f.return(va.wrap().add(f.load("i32.load", entry, TlbEntry.ADDEND))));
  f.return(f.call(fill, va, access, tlb));
});

/** A linear address, wrapped at 4 GiB outside 64-bit mode. */
export const wrapLinear = (f: Builder, va: I64): I64 =>
  get32(f, Cpu.MODE).and(Mode.CODE_MASK).eq(Mode.CODE64).select(va, va.and(0xffff_ffffn));

/** Where the second page of an access that crosses starts: a fault there reports this address. */
const secondPage = (f: Builder, va: I64, bytes: number): I64 => wrapLinear(f, va.add(bytes - 1)).and(~0xfffn);

const crosses = (va: I64, bytes: number): I32 =>
  va
    .wrap()
    .and(0xfff)
    .gtU(4096 - bytes);

/** Ends the processor's part of an access to what is not RAM: an EPT-violation exit, repeated after it. */
const exitForMmio = fn("exitForMmio", ["i32", "i64", "i32"], undefined, (f, isWrite, value, bytes) => {
  set32(f, Cpu.EXIT_REASON, 48);
  const gpa = get64(f, Cpu.MISS_GPA);
  set32(f, Cpu.EXIT_A, gpa.wrap());
  set32(f, Cpu.EXIT_B, gpa.shrU(32).wrap());
  set32(f, Cpu.EXIT_C, bytes.or(isWrite.shl(8)));
  set32(f, Cpu.EXIT_D, value.wrap());
  set32(f, Cpu.EXIT_E, value.shrU(32).wrap());
  set32(f, Cpu.EVENT, Event.EXIT_RETRY);
});

/**
 * One answer of an exit that the current instruction caused (MMIO, port input), if it has been given:
 * `answered` with its value; else `ask` starts the exit, after which the instruction is executed again.
 */
export function replayed(f: Builder, answered: (value: I64) => void, ask: () => void): void {
  const next = get32(f, Cpu.REPLAY_NEXT);
  f.if(
    next.ltU(get32(f, Cpu.REPLAY_COUNT)),
    () => {
      set32(f, Cpu.REPLAY_NEXT, next.add(1));
      answered(f.load("i64.load", f.cpu.add(next.shl(3)), Cpu.REPLAY));
    },
    ask,
  );
}

/** What was exchanged so far stands (an element of a string instruction is done): it is not to be replayed. */
export function commitReplay(f: Builder): void {
  set32(f, Cpu.REPLAY_COUNT, 0);
  set32(f, Cpu.REPLAY_NEXT, 0);
}

const mmioRead = fn("mmioRead", ["i32"], "i64", (f, bytes) => {
  replayed(
    f,
    (value) => f.return(value),
    () => f.call(exitForMmio, f.i32(0), f.i64(0), bytes),
  );
  f.return(f.i64(0));
});

const mmioWrite = fn("mmioWrite", ["i64", "i32"], undefined, (f, value, bytes) => {
  replayed(
    f,
    () => {},
    () => f.call(exitForMmio, f.i32(1), value, bytes),
  );
});

/** After a write to arena bytes [host, host + bytes) within a page: forget code that was overwritten. */
export const noteWrite = fn("noteWrite", ["i32", "i32"], undefined, (f, host, bytes) => {
  const flags = f.load("i32.load8_u", get32(f, Cpu.PAGE_FLAGS).add(host.shrU(12)));
  f.if(flags.and(2).eqz(), () => f.return());
  const lines = f.load("i64.load", host.shrU(12).shl(3), LINES);
  const first = host.shrU(6).and(63).u64();
  const last = host.add(bytes).sub(1).shrU(6).and(63).u64();
  const touched = f.i64(-1).shrU(f.i64(63).sub(last)).and(f.i64(-1).shl(first));
  f.unlikely(lines.and(touched).ne(0), () => f.call(codeWritten, host, bytes));
});

export const readSlow: Record<number, Fn> = {};
export const writeSlow: Record<number, Fn> = {};

for (const bits of [8, 16, 32, 64]) {
  const bytes = bits / 8;
  readSlow[bits] = fn(`readSlow${bits}`, ["i64", "i32", "i32"], "i64", (f, va, access, tlb) => {
    if (bytes > 1)
      f.if(crosses(va, bytes), () => {
        const value = f.variable("i64", f.i64(0));
        for (let i = 0; i < bytes; i++) {
          const byte = f.call<I64>(readSlow[8]!, wrapLinear(f, va.add(i)), access, tlb);
          f.if(get32(f, Cpu.EVENT), () => f.return(f.i64(0)));
          value.set(value.get().or(byte.shl(8 * i)));
        }
        f.return(value.get());
      });
    const host = f.call(probe, va, access, tlb);
    f.if(host.leU(1), () => {
      f.if(host.eqz(), () => f.return(f.i64(0)));
      f.return(f.call<I64>(mmioRead, f.i32(bytes)));
    });
    f.return(f.load(LOAD[bits]!, host));
  });
  writeSlow[bits] = fn(
    `writeSlow${bits}`,
    ["i64", "i64", "i32", "i32"],
    undefined,
    (f, va, value, access, tlb) => {
      if (bytes > 1)
        f.if(crosses(va, bytes), () => {
          // Both pages must allow the write before a byte is stored.
          for (const at of [va, secondPage(f, va, bytes)])
            f.if(f.call(probe, at, access, tlb).eqz(), () => f.return());
          for (let i = 0; i < bytes; i++) {
            f.call(writeSlow[8]!, wrapLinear(f, va.add(i)), value.shrU(8 * i).and(0xff), access, tlb);
            f.if(get32(f, Cpu.EVENT), () => f.return());
          }
          f.return();
        });
      const host = f.call(probe, va, access, tlb);
      f.if(host.leU(1), () => {
        f.if(host.eqz(), () => f.return());
        f.call(mmioWrite, value, f.i32(bytes));
        f.return();
      });
      f.store(STORE[bits]!, host, value);
      f.call(noteWrite, host, f.i32(bytes));
    },
  );
}

const readSlow128 = fn("readSlow128", ["i64", "i32", "i32"], "v128", (f, va, access, tlb) => {
  const low = f.call<I64>(readSlow[64]!, va, access, tlb);
  f.if(get32(f, Cpu.EVENT), () => f.return(f.v128(0n)));
  const high = f.call<I64>(readSlow[64]!, wrapLinear(f, va.add(8)), access, tlb);
  f.return(f.op("i64x2.replace_lane", [f.op("i64x2.splat", [low]), high], [1]));
});

const writeSlow128 = fn(
  "writeSlow128",
  ["i64", "v128", "i32", "i32"],
  undefined,
  (f, va, value, access, tlb) => {
    f.if(crosses(va, 16), () => {
      for (const at of [va, secondPage(f, va, 16)])
        f.if(f.call(probe, at, access, tlb).eqz(), () => f.return());
    });
    f.call(writeSlow[64]!, va, f.op<I64>("i64x2.extract_lane", [value], [0]), access, tlb);
    f.if(get32(f, Cpu.EVENT), () => f.return());
    f.call(
      writeSlow[64]!,
      wrapLinear(f, va.add(8)),
      f.op<I64>("i64x2.extract_lane", [value], [1]),
      access,
      tlb,
    );
  },
);

/** (address, bytes, access): raises what a write there would, with nothing written. Test EVENT. */
export const checkWritable = fn("checkWritable", ["i64", "i32", "i32"], undefined, (f, va, bytes, access) => {
  const tlb = get32(f, Cpu.TLB);
  f.if(f.call(probe, va, access, tlb).eqz(), () => f.return());
  const last = wrapLinear(f, va.add(bytes.sub(1).u64())).and(~0xfffn);
  f.if(last.ne(va.and(~0xfffn)), () => f.call(probe, last, access, tlb));
});

/** Writes both halves once it is known that all of it may be written. */
const writeSlow256 = fn(
  "writeSlow256",
  ["i64", "v128", "v128", "i32", "i32"],
  undefined,
  (f, va, low, high, access, tlb) => {
    f.if(crosses(va, 32), () => {
      for (const at of [va, secondPage(f, va, 32)])
        f.if(f.call(probe, at, access, tlb).eqz(), () => f.return());
    });
    f.call(writeSlow128, va, low, access, tlb);
    f.if(get32(f, Cpu.EVENT), () => f.return());
    f.call(writeSlow128, wrapLinear(f, va.add(16)), high, access, tlb);
  },
);

/**
 * Prepares a read-modify-write: the address at which the operand may be read and written. That is RAM
 * itself, or BOUNCE with the operand's value in it, which `rmwEnd` writes back. 0 if it raised.
 */
const rmwBegin = fn("rmwBegin", ["i64", "i32", "i32", "i32"], "i32", (f, va, bytes, access, tlb) => {
  const host = f.call(probe, va, access.or(Access.WRITE), tlb);
  f.if(host.eqz(), () => f.return(host));
  const cross = va.wrap().and(0xfff).add(bytes).gtU(4096);
  f.if(cross, () => {
    const second = wrapLinear(f, va.add(0x1000)).and(~0xfffn);
    f.if(f.call(probe, second, access.or(Access.WRITE), tlb).eqz(), () => f.return(f.i32(0)));
  });
  f.if(cross.or(host.eq(1)).eqz(), () => {
    const flags = f.load("i32.load8_u", get32(f, Cpu.PAGE_FLAGS).add(host.shrU(12)));
    f.if(flags.and(2).eqz(), () => f.return(host));
  });
  set64(f, Cpu.BOUNCE_ADDRESS, va);
  const reads = [8, 16, 32, 64].map((bits) => (): void => {
    set64(f, Cpu.BOUNCE, f.call<I64>(readSlow[bits]!, va, access, tlb));
  });
  f.switch(bytes.ctz(), reads, () => {});
  f.if(get32(f, Cpu.EVENT), () => f.return(f.i32(0)));
  f.return(f.cpu.add(Cpu.BOUNCE));
});

const rmwEnd = fn("rmwEnd", ["i32", "i32", "i32"], undefined, (f, bytes, access, tlb) => {
  const va = get64(f, Cpu.BOUNCE_ADDRESS);
  const value = get64(f, Cpu.BOUNCE);
  const writes = [8, 16, 32, 64].map((bits) => (): void => {
    f.call(writeSlow[bits]!, va, value, access.or(Access.WRITE), tlb);
  });
  f.switch(bytes.ctz(), writes, () => {});
});

/** How an access is made. */
export interface AccessOptions {
  /** Emitted where EVENT became non-zero: must leave or return. */
  readonly onEvent: () => void;
  /** The access goes by SS (a constant, or 0 or 1 at run time). */
  readonly stack?: I32 | boolean;
  /** Address of a TLB other than the current mode's. */
  readonly tlb?: I32;
}

const accessCode = (f: Builder, base: number, stack: I32 | boolean | undefined): I32 =>
  typeof stack === "object" ? stack.shl(3).or(base) : f.i32(base | (stack === true ? Access.STACK : 0));

/** The tag that `va` must have for a fast access of `bytes` bytes: its last byte's, so that crossing fails. */
const tagOf = (va: I64, bytes: number): I64 => va.add(bytes - 1).and(~0xfffn);

/**
 * The skeleton of every access: the TLB entry, the fast side on a hit in the tag at `tag`, else the slow
 * side and a look at EVENT.
 */
function access(
  f: Builder,
  bytes: number,
  tag: number,
  address: I64,
  options: AccessOptions,
  fast: (host: I32) => void,
  slow: (va: I64, tlb: I32) => void,
): void {
  const va = f.let(address);
  const tlb = options.tlb === undefined ? get32(f, Cpu.TLB) : f.let(options.tlb);
  const entry = f.let(entryOf(tlb, va));
  f.if(
    f.load("i64.load", entry, tag).eq(tagOf(va, bytes)),
    () => fast(va.wrap().add(f.load("i32.load", entry, TlbEntry.ADDEND))),
    () => {
      slow(va, tlb);
      f.unlikely(get32(f, Cpu.EVENT), options.onEvent);
    },
    true,
  );
}

/** Reads `bits` (8, 16, 32, 64) at linear address `va`, zero-extended. */
export function readMemory(f: Builder, bits: number, va: I64, options: AccessOptions): I64 {
  const value = f.variable("i64", f.i64(0));
  const code = (): I32 => accessCode(f, Access.READ, options.stack);
  access(
    f,
    bits / 8,
    TlbEntry.READ,
    va,
    options,
    (host) => value.set(f.load(LOAD[bits]!, host) as I64),
    (at, tlb) => value.set(f.call<I64>(readSlow[bits]!, at, code(), tlb)),
  );
  return value.get();
}

/** Writes the low `bits` of `value` at linear address `va`. */
export function writeMemory(f: Builder, bits: number, va: I64, value: I64, options: AccessOptions): void {
  const code = (): I32 => accessCode(f, Access.WRITE, options.stack);
  access(
    f,
    bits / 8,
    TlbEntry.WRITE,
    va,
    options,
    (host) => f.store(STORE[bits]!, host, value),
    (at, tlb) => f.call(writeSlow[bits]!, at, value, code(), tlb),
  );
}

/** Reads 16 bytes. Alignment is the caller's to check. */
export function readMemory128(f: Builder, va: I64, options: AccessOptions): V128 {
  const value = f.variable("v128", f.v128(0n));
  const code = (): I32 => accessCode(f, Access.READ, options.stack);
  access(
    f,
    16,
    TlbEntry.READ,
    va,
    options,
    (host) => value.set(f.load("v128.load", host)),
    (at, tlb) => value.set(f.call<V128>(readSlow128, at, code(), tlb)),
  );
  return value.get();
}

/** Writes 16 bytes. Alignment is the caller's to check. */
export function writeMemory128(f: Builder, va: I64, value: V128, options: AccessOptions): void {
  const code = (): I32 => accessCode(f, Access.WRITE, options.stack);
  access(
    f,
    16,
    TlbEntry.WRITE,
    va,
    options,
    (host) => f.store("v128.store", host, value),
    (at, tlb) => f.call(writeSlow128, at, value, code(), tlb),
  );
}

/** Reads 32 bytes, as two halves. Alignment is the caller's to check. */
export function readMemory256(f: Builder, va: I64, options: AccessOptions): [V128, V128] {
  const low = f.variable("v128", f.v128(0n));
  const high = f.variable("v128", f.v128(0n));
  const code = (): I32 => accessCode(f, Access.READ, options.stack);
  access(
    f,
    32,
    TlbEntry.READ,
    va,
    options,
    (host) => {
      const at = f.let(host);
      low.set(f.load("v128.load", at));
      high.set(f.load("v128.load", at, 16));
    },
    (at, tlb) => {
      low.set(f.call<V128>(readSlow128, at, code(), tlb));
      // After an event nothing more is read.
      f.if(get32(f, Cpu.EVENT).eqz(), () =>
        high.set(f.call<V128>(readSlow128, wrapLinear(f, at.add(16)), code(), tlb)),
      );
    },
  );
  return [low.get(), high.get()];
}

/** Writes 32 bytes given as two halves. Alignment is the caller's to check. */
export function writeMemory256(f: Builder, va: I64, halves: readonly V128[], options: AccessOptions): void {
  const [low, high] = halves as [V128, V128];
  const code = (): I32 => accessCode(f, Access.WRITE, options.stack);
  access(
    f,
    32,
    TlbEntry.WRITE,
    va,
    options,
    (host) => {
      const at = f.let(host);
      f.store("v128.store", at, low);
      f.store("v128.store", at, high, 16);
    },
    (at, tlb) => f.call(writeSlow256, at, low, high, code(), tlb),
  );
}

/**
 * Reads, changes and writes back `bits` at `va`; that it may be written is checked first. `change` gives
 * the new value. Nothing else of the instruction may be stored before this returns.
 */
export function modifyMemory(
  f: Builder,
  bits: number,
  va: I64,
  change: (old: I64) => I64,
  options: AccessOptions,
): void {
  const host = f.variable("i32", f.i32(0));
  const code = (): I32 => accessCode(f, Access.READ, options.stack);
  const tlb = f.let(options.tlb ?? get32(f, Cpu.TLB));
  access(
    f,
    bits / 8,
    TlbEntry.WRITE,
    va,
    { ...options, tlb },
    (fast) => host.set(fast),
    (at) => host.set(f.call(rmwBegin, at, f.i32(bits / 8), code(), tlb)),
  );
  const at = host.get();
  const changed = f.let(change(f.load(LOAD[bits]!, at) as I64));
  f.store(STORE[bits]!, at, changed);
  f.unlikely(at.eq(f.cpu.add(Cpu.BOUNCE)), () => {
    f.call(rmwEnd, f.i32(bits / 8), code(), tlb);
    f.unlikely(get32(f, Cpu.EVENT), options.onEvent);
  });
}
