import { type Builder, fn, type I32, type I64 } from "../ir/builder.ts";
import { Cpu, Seg } from "./layout.ts";
import { accessOf, Rights, realMode, updateMode, v86Mode } from "./mode.ts";
import { get32, get64, Vector } from "./state.ts";
import {
  LOW32,
  longMode,
  nonCanonical,
  raiseAt,
  refuse,
  returnOnEvent,
  systemRead,
  systemWrite,
} from "./system.ts";

/**
 * Segment descriptors and the loading of segment registers (SDM Vol. 3A ch. 3.4, 3.5, 5; Vol. 2 MOV, LLDT,
 * LTR). A descriptor in hand is its 8 bytes as an `I64`.
 */

/** Fields of a descriptor in hand (SDM Vol. 3A fig. 3-8). */
export const Descriptor = {
  base: (raw: I64): I64 => raw.shrU(16).and(0xff_ffff).or(raw.shrU(32).and(0xff00_0000n)),
  limit(raw: I64): I32 {
    const limit = raw.wrap().and(0xffff).or(raw.shrU(32).wrap().and(0xf_0000));
    return raw.bit(55).select(limit.shl(12).or(0xfff), limit);
  },
  /** In VMCS format. */
  access: (raw: I64): I32 => raw.shrU(40).wrap().and(0xf0ff),
  /** S and type: five bits. */
  type: (raw: I64): I32 => raw.shrU(40).wrap().and(0x1f),
  dpl: (raw: I64): I32 => raw.shrU(45).wrap().and(3),
  absent: (raw: I64): I32 => raw.bit(47).eqz(),
  isCode: (raw: I64): I32 => raw.shrU(43).wrap().and(3).eq(3),
  isWritableData: (raw: I64): I32 => raw.shrU(41).wrap().and(0xd).eq(9),
  isConforming: (raw: I64): I32 => raw.bit(42),
  isLong: (raw: I64): I32 => raw.bit(53),
  isBig: (raw: I64): I32 => raw.bit(54),
  isAccessed: (raw: I64): I32 => raw.bit(40),
} as const;

/** Types of system descriptors (SDM Vol. 3A table 3-2), S = 0. */
export const SystemType = {
  TSS16: 1,
  LDT: 2,
  TSS16_BUSY: 3,
  CALL_GATE16: 4,
  TASK_GATE: 5,
  INTERRUPT_GATE16: 6,
  TRAP_GATE16: 7,
  TSS32: 9,
  TSS32_BUSY: 11,
  CALL_GATE32: 12,
  INTERRUPT_GATE32: 14,
  TRAP_GATE32: 15,
} as const;

/** A selector without its RPL: what selector error codes carry (TI stays). */
export const errorOf = (selector: I32): I32 => selector.and(0xfffc);
export const isNull = (selector: I32): I32 => errorOf(selector).eqz();
export const rplOf = (selector: I32): I32 => selector.and(3);

/**
 * Linear address of the descriptor that `selector` names, if `bytes` bytes of it lie within its table; else
 * raises `vector` with the selector as error code.
 */
export const descriptorAddress = fn(
  "descriptorAddress",
  ["i32", "i32", "i32"],
  "i64",
  (f, selector, bytes, vector) => {
    const index = selector.and(0xfff8);
    const local = selector.and(4);
    const ldtMissing = accessOf(f, Seg.LDTR).shrU(16).and(1);
    const ldtLimit = get32(f, Cpu.SEG_LIMIT + 4 * Seg.LDTR);
    const limit = local.select(ldtLimit, get32(f, Cpu.GDT_LIMIT));
    const base = local.select(get64(f, Cpu.SEG_BASE + 8 * Seg.LDTR), get64(f, Cpu.GDT_BASE));
    const beyond = index.add(bytes).sub(1).gtU(limit);
    refuse(f, beyond.or(local.shrU(2).and(ldtMissing)), vector, errorOf(selector), f.i64(0));
    f.return(base.add(index.u64()));
  },
);

/** Reads the descriptor of `selector`, which is not null; raises `vector` (its selector) past the table's end. */
export const fetchDescriptor = fn("fetchDescriptor", ["i32", "i32"], "i64", (f, selector, vector) => {
  const address = f.call<I64>(descriptorAddress, selector, f.i32(8), vector);
  returnOnEvent(f, f.i64(0));
  f.return(f.call<I64>(systemRead[64]!, address));
});

/** The second half of a 16-byte system descriptor or gate of IA-32e mode (SDM Vol. 3A sec. 3.5.2, 5.8.3.1). */
export const fetchUpper = fn("fetchUpper", ["i32", "i32"], "i64", (f, selector, vector) => {
  const address = f.call<I64>(descriptorAddress, selector, f.i32(16), vector);
  returnOnEvent(f, f.i64(0));
  const upper = f.call<I64>(systemRead[64]!, address.add(8));
  returnOnEvent(f, f.i64(0));
  // A type other than 0 there would let the upper half be used as a descriptor of its own.
  refuse(f, upper.shrU(40).and(0x1f).ne(0), Vector.GP, errorOf(selector), f.i64(0));
  f.return(upper);
});

/** Sets the accessed bit in memory, if it is clear; gives the descriptor with it. Test EVENT. */
export const markAccessed = fn("markAccessed", ["i32", "i64"], "i64", (f, selector, raw) => {
  f.if(Descriptor.isAccessed(raw).eqz(), () => {
    const address = f.call<I64>(descriptorAddress, selector, f.i32(8), f.i32(Vector.GP));
    f.call(systemWrite[8]!, address.add(5), raw.shrU(40).or(1).and(0xff));
  });
  f.return(raw.or(1n << 40n));
});

/** Stores a segment register: selector and, as given, the hidden part. */
export const storeSegment = fn(
  "storeSegment",
  ["i32", "i32", "i64", "i32", "i32"],
  undefined,
  (f, seg, selector, base, limit, access) => {
    const word = f.cpu.add(seg.shl(2));
    f.store("i32.store", word, selector, Cpu.SEG_SELECTOR);
    f.store("i32.store", word, limit, Cpu.SEG_LIMIT);
    f.store("i32.store", word, access, Cpu.SEG_ACCESS);
    f.store("i64.store", f.cpu.add(seg.shl(3)), base, Cpu.SEG_BASE);
  },
);

/** Stores a segment register from the descriptor in hand. */
export const storeDescriptor = fn(
  "storeDescriptor",
  ["i32", "i32", "i64"],
  undefined,
  (f, seg, selector, raw) => {
    f.call(storeSegment, seg, selector, Descriptor.base(raw), Descriptor.limit(raw), Descriptor.access(raw));
  },
);

/** Makes a segment register null: unusable, base 0. `dpl` is what a null SS keeps of its privilege. */
export function storeNull(f: Builder, seg: I32 | number, selector: I32, dpl: I32 | number = 0): void {
  const rights =
    typeof dpl === "number"
      ? f.i32(Rights.UNUSABLE | (dpl << Rights.DPL_SHIFT))
      : dpl.shl(Rights.DPL_SHIFT).or(Rights.UNUSABLE);
  f.call(storeSegment, typeof seg === "number" ? f.i32(seg) : seg, selector, f.i64(0), f.i32(0), rights);
}

/**
 * Loads a segment register in real or virtual-8086 mode. Real mode leaves limit and rights as they are (so
 * "unreal" segments of 4 GiB live on), but for CS and for a register that was null or read-only.
 */
export const loadReal = fn("loadReal", ["i32", "i32"], undefined, (f, seg, selector) => {
  const base = selector.u64().shl(4);
  f.if(v86Mode(f), () => {
    f.call(storeSegment, seg, selector, base, f.i32(0xffff), f.i32(0xf3));
    f.return();
  });
  const word = f.cpu.add(seg.shl(2));
  const access = f.load("i32.load", word, Cpu.SEG_ACCESS);
  const limit = f.load("i32.load", word, Cpu.SEG_LIMIT);
  const unusable = access.shrU(16).and(1);
  const odd = unusable.or(access.and(Rights.CODE | Rights.WRITABLE).ne(Rights.WRITABLE));
  f.call(
    storeSegment,
    seg,
    selector,
    base,
    unusable.select(f.i32(0xffff), limit),
    seg.eq(Seg.CS).or(odd).select(f.i32(0x93), access),
  );
});

/** Loads DS, ES, FS or GS in protected mode. */
const loadData = fn("loadData", ["i32", "i32"], undefined, (f, seg, selector) => {
  f.if(isNull(selector), () => {
    storeNull(f, seg, selector);
    f.return();
  });
  const raw = f.call<I64>(fetchDescriptor, selector, f.i32(Vector.GP));
  returnOnEvent(f);
  const type = Descriptor.type(raw);
  const dpl = Descriptor.dpl(raw);
  const readable = type.and(0x18).ne(0x18).or(type.and(2));
  const privileged = type
    .and(0x1c)
    .ne(0x1c)
    .and(rplOf(selector).gtU(dpl).or(get32(f, Cpu.CPL).gtU(dpl)));
  const bad = type.and(0x10).eqz().or(readable.eqz()).or(privileged);
  refuse(f, bad, Vector.GP, errorOf(selector));
  refuse(f, Descriptor.absent(raw), Vector.NP, errorOf(selector));
  const marked = f.call<I64>(markAccessed, selector, raw);
  returnOnEvent(f);
  f.call(storeDescriptor, seg, selector, marked);
});

/**
 * Checks a stack segment for privilege level `cpl` and gives its descriptor, accessed bit set. `vector` is
 * what a bad selector raises: #GP by MOV, POP, LSS and far returns, #TS where the selector is from a TSS.
 */
export const checkStackSegment = fn(
  "checkStackSegment",
  ["i32", "i32", "i32"],
  "i64",
  (f, selector, cpl, vector) => {
    refuse(f, isNull(selector), vector, 0, f.i64(0));
    const raw = f.call<I64>(fetchDescriptor, selector, vector);
    returnOnEvent(f, f.i64(0));
    const bad = rplOf(selector)
      .ne(cpl)
      .or(Descriptor.dpl(raw).ne(cpl))
      .or(Descriptor.isWritableData(raw).eqz());
    refuse(f, bad, vector, errorOf(selector), f.i64(0));
    refuse(f, Descriptor.absent(raw), Vector.SS, errorOf(selector), f.i64(0));
    f.return(f.call<I64>(markAccessed, selector, raw));
  },
);

const loadStack = fn("loadStack", ["i32"], undefined, (f, selector) => {
  const cpl = get32(f, Cpu.CPL);
  f.if(isNull(selector), () => {
    // 64-bit mode allows a null SS below CPL 3 (SDM Vol. 2 MOV).
    const is64 = accessOf(f, Seg.CS).shrU(13).and(longMode(f));
    f.if(is64.and(cpl.ne(3)).and(rplOf(selector).eq(cpl)), () => {
      storeNull(f, Seg.SS, selector, cpl);
      f.return();
    });
  });
  const raw = f.call<I64>(checkStackSegment, selector, cpl, f.i32(Vector.GP));
  returnOnEvent(f);
  f.call(storeDescriptor, f.i32(Seg.SS), selector, raw);
});

/**
 * Loads ES, SS, DS, FS or GS (numbered as `Seg`) with `selector` (16 bits), as MOV and POP do, and
 * recomputes the mode. Test EVENT.
 */
export const loadSegment = fn("loadSegment", ["i32", "i32"], undefined, (f, seg, selector) => {
  f.if(
    realMode(f).or(v86Mode(f)),
    () => f.call(loadReal, seg, selector),
    () =>
      f.if(
        seg.eq(Seg.SS),
        () => f.call(loadStack, selector),
        () => f.call(loadData, seg, selector),
      ),
  );
  returnOnEvent(f);
  f.call(updateMode);
});

/** After a return to an outer privilege level: data segments that it may not use become null. */
export const dropPrivilegedSegments = fn("dropPrivilegedSegments", [], undefined, (f) => {
  const cpl = get32(f, Cpu.CPL);
  for (const seg of [Seg.ES, Seg.DS, Seg.FS, Seg.GS]) {
    const access = accessOf(f, seg);
    const conforming = access.and(0x1c).eq(0x1c);
    const dpl = access.shrU(Rights.DPL_SHIFT).and(3);
    // An unusable register is null already; FS and GS may hold a base that a MSR put there.
    f.if(access.shrU(16).or(conforming).eqz().and(dpl.ltU(cpl)), () => storeNull(f, seg, f.i32(0)));
  }
});

/** The base of a 16-byte descriptor of IA-32e mode; #GP(selector) where it is not canonical. */
const longBase = fn("longBase", ["i32", "i64"], "i64", (f, selector, raw) => {
  const upper = f.call<I64>(fetchUpper, selector, f.i32(Vector.GP));
  returnOnEvent(f, f.i64(0));
  const base = f.let(Descriptor.base(raw).or(upper.shl(32)));
  refuse(f, nonCanonical(base), Vector.GP, errorOf(selector), f.i64(0));
  f.return(base);
});

/** The base of a system segment, 32 or 64 bits by mode. */
function systemBase(f: Builder, selector: I32, raw: I64): I64 {
  const base = f.variable("i64", Descriptor.base(raw));
  f.if(longMode(f), () => base.set(f.call<I64>(longBase, selector, raw)));
  return base.get();
}

/** LLDT (SDM Vol. 2). Test EVENT. */
export const loadLdtr = fn("loadLdtr", ["i32"], undefined, (f, selector) => {
  f.if(isNull(selector), () => {
    storeNull(f, Seg.LDTR, selector);
    f.return();
  });
  refuse(f, selector.and(4), Vector.GP, errorOf(selector));
  const raw = f.call<I64>(fetchDescriptor, selector, f.i32(Vector.GP));
  returnOnEvent(f);
  refuse(f, Descriptor.type(raw).ne(SystemType.LDT), Vector.GP, errorOf(selector));
  refuse(f, Descriptor.absent(raw), Vector.NP, errorOf(selector));
  const base = systemBase(f, selector, raw);
  returnOnEvent(f);
  f.call(storeSegment, f.i32(Seg.LDTR), selector, base, Descriptor.limit(raw), Descriptor.access(raw));
});

/** Marks the TSS of `selector` busy (or not) in memory. Test EVENT. */
export const setTssBusy = fn("setTssBusy", ["i32", "i32"], undefined, (f, selector, busy) => {
  const address = f.call<I64>(descriptorAddress, selector, f.i32(8), f.i32(Vector.GP));
  returnOnEvent(f);
  const byte = f.call<I64>(systemRead[8]!, address.add(5));
  returnOnEvent(f);
  f.call(systemWrite[8]!, address.add(5), byte.and(0xfd).or(busy.u64().shl(1)));
});

/** LTR (SDM Vol. 2). Test EVENT. */
export const loadTr = fn("loadTr", ["i32"], undefined, (f, selector) => {
  refuse(f, isNull(selector), Vector.GP);
  refuse(f, selector.and(4), Vector.GP, errorOf(selector));
  const raw = f.call<I64>(fetchDescriptor, selector, f.i32(Vector.GP));
  returnOnEvent(f);
  const type = Descriptor.type(raw);
  const allowed = type.eq(SystemType.TSS32).or(type.eq(SystemType.TSS16).and(longMode(f).eqz()));
  refuse(f, allowed.eqz(), Vector.GP, errorOf(selector));
  refuse(f, Descriptor.absent(raw), Vector.NP, errorOf(selector));
  const base = systemBase(f, selector, raw);
  returnOnEvent(f);
  f.call(setTssBusy, selector, f.i32(1));
  returnOnEvent(f);
  const access = Descriptor.access(raw).or(2);
  f.call(storeSegment, f.i32(Seg.TR), selector, base, Descriptor.limit(raw), access);
});

/** Sets SS or CS to the fixed flat segment that SYSCALL, SYSENTER and their returns give. */
export function storeFixed(f: Builder, seg: number, selector: I32, access: I32 | number): void {
  f.call(
    storeSegment,
    f.i32(seg),
    selector,
    f.i64(0),
    f.i32(-1),
    typeof access === "number" ? f.i32(access) : access,
  );
}

/** Raises `vector` with the selector as error code unless the descriptor is present. For use in functions. */
export function refuseAbsent(f: Builder, raw: I64, selector: I32, vector: number = Vector.NP): void {
  f.unlikely(Descriptor.absent(raw), () => {
    f.call(raiseAt, f.i32(vector), errorOf(selector));
    f.return();
  });
}

/** A linear address outside IA-32e mode. */
export const legacy = (va: I64): I64 => va.and(LOW32);
