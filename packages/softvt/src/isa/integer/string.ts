import { segmentAddress } from "../../cpu/address.ts";
import { FlagKind } from "../../cpu/flags.ts";
import { Cpu, Gpr, Mode, Seg } from "../../cpu/layout.ts";
import { Access, commitReplay, noteWrite, probe } from "../../cpu/memory.ts";
import { get32, RFLAGS } from "../../cpu/state.ts";
import { type Builder, fn, type I32, type I64 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { insn } from "../registry.ts";

/**
 * String instructions (SDM Vol. 1 sec. 7.3.9). Repeated MOVS and STOS move whole runs within pages by
 * `memory.copy` and `memory.fill`; everything else goes element by element. Registers are up to date after
 * each element, so that a fault or an exit resumes where it happened.
 */

/** Runs of a bulk operation before the instruction starts over, so that it stays interruptible. */
const RUNS = 16;

interface StringContext {
  readonly mask: I64;
  /** Bytes that an element moves the index registers by. */
  readonly step: I64;
  readonly addressSize: I32;
  readonly source: I32;
}

function context(c: Insn, bits: number): StringContext {
  const d = c.field("d");
  const addressSize = c.let(d.shrU(5).and(3));
  const mask = addressSize
    .eqz()
    .select(c.i64(0xffff), addressSize.eq(1).select(c.i64(0xffff_ffffn), c.i64(-1)));
  const down = get32(c, Cpu.RFLAGS).and(RFLAGS.DF);
  return {
    mask: c.let(mask),
    step: c.let(down.select(c.i64(-bits / 8), c.i64(bits / 8))),
    addressSize,
    source: d.shrU(2).and(7),
  };
}

/** An index or count register, cut to the address size. */
const masked = (c: Insn, s: StringContext, register: number): I64 =>
  c.let(c.readGpr(register, 64).and(s.mask));

/** Stores an index or count: 16-bit addresses leave the rest of the register, 32-bit ones clear it. */
function setMasked(c: Insn, s: StringContext, register: number, value: I64): void {
  const old = c.readGpr(register, 64);
  const cut = value.and(s.mask);
  c.writeGpr(register, 64, s.addressSize.eqz().select(old.and(s.mask.not()).or(cut), cut));
}

function advance(c: Insn, s: StringContext, register: number, by: I64 = s.step): void {
  setMasked(c, s, register, c.readGpr(register, 64).add(by));
}

const sourceAddress = (c: Insn, s: StringContext, bits: number): I64 =>
  c.segmented(s.source, masked(c, s, Gpr.RSI), bits, false);
const targetAddress = (c: Insn, s: StringContext, bits: number, write: boolean): I64 =>
  c.segmented(c.i32(Seg.ES), masked(c, s, Gpr.RDI), bits, write);

/** Repeats `element` RCX times if REP or REPNE is given, else once. `bulk` may do many at once first. */
function repeat(
  c: Insn,
  s: StringContext,
  element: (stop: (cond: I32) => void) => void,
  bulk?: (count: I64, done: () => void) => void,
): void {
  const prefix = c.let(c.field("d").and(3));
  c.if(prefix.eqz(), () => {
    element(() => {});
    c.end({ kind: "next" });
  });
  const runs = c.variable("i32", c.i32(0));
  c.block((finished) => {
    c.loop((again) => {
      const count = masked(c, s, Gpr.RCX);
      c.if(count.eqz(), () => c.break(finished));
      const n = runs.get();
      // Start over now and then, with what is left: a pending interrupt gets its turn.
      c.if(n.geU(bulk === undefined ? 4096 : RUNS), () => c.branchTo(c.thisRip()));
      runs.set(n.add(1));
      bulk?.(count, () => c.continue(again));
      element((cond) => {
        // The element counts before it ends the loop.
        setMasked(c, s, Gpr.RCX, count.sub(1));
        commitReplay(c);
        c.if(cond, () => c.break(finished));
      });
      setMasked(c, s, Gpr.RCX, count.sub(1));
      commitReplay(c);
      // Under single step every element is followed by its own trap (SDM Vol. 2B, REP).
      c.if(get32(c, Cpu.RFLAGS).and(RFLAGS.TF), () => {
        c.if(count.ne(1), () => c.branchTo(c.thisRip()));
      });
    });
  });
}

/** Bytes from `va` to the end of its page. */
const toPageEnd = (va: I64): I64 => va.and(0xfff).xor(0xfff).add(1);

const least = (f: Builder, a: I64, b: I64): I64 => f.let(a.ltU(b).select(a, b));

/** Whether segments need no checks and addresses do not wrap within a run. */
const isFlat = (f: Builder, seg: I32): I32 => {
  const mode = get32(f, Cpu.MODE);
  const long = mode.and(Mode.CODE_MASK).eq(Mode.CODE64);
  return long.or(mode.and(Mode.FLAT).ne(0).and(seg.ltU(Seg.FS)));
};

/** Writable RAM without decoded code at `va`: its arena address, or 0. Raises nothing that stays. */
const plainTarget = fn("plainTarget", ["i64"], "i32", (f, va) => {
  const host = f.call<I32>(probe, va, f.i32(Access.WRITE), get32(f, Cpu.TLB));
  f.if(host.leU(1), () => f.return(f.i32(0)));
  f.return(host);
});

for (const [name, bits, opcode] of [
  ["MOVSB", 8, "A4"],
  ["MOVS", 0, "A5"],
] as const)
  insn(name, opcode, "", bits === 8 ? {} : { sizes: [16, 32, 64] }, (c) => {
    const width = bits === 8 ? 8 : c.opsize;
    const s = context(c, width);
    const element = (): void => {
      const value = c.readAt(width, sourceAddress(c, s, width));
      c.writeAt(width, targetAddress(c, s, width, true), value);
      advance(c, s, Gpr.RSI);
      advance(c, s, Gpr.RDI);
    };
    repeat(c, s, element, (count, done) => {
      c.if(s.step.gtS(0).and(isFlat(c, s.source)).and(count.gtU(3)), () => {
        const from = c.call<I64>(segmentAddress, s.source, masked(c, s, Gpr.RSI), c.i32(1), c.i32(0));
        const to = c.call<I64>(segmentAddress, c.i32(Seg.ES), masked(c, s, Gpr.RDI), c.i32(1), c.i32(1));
        const room = least(c, toPageEnd(from), toPageEnd(to)).divU(width / 8);
        const elements = least(c, count, room);
        c.if(elements.gtU(3), () => {
          const target = c.call<I32>(plainTarget, to);
          c.leaveOnEvent();
          c.if(target, () => {
            const source = c.call<I32>(probe, from, c.i32(Access.READ), get32(c, Cpu.TLB));
            c.leaveOnEvent();
            const bytes = c.let(elements.mul(width / 8).wrap());
            // Where the target starts inside the source, each element is to see the one before it.
            const overlaps = target.sub(source).ltU(bytes).and(target.ne(source));
            c.if(source.gtU(1).and(overlaps.eqz()), () => {
              c.copy(target, source, bytes);
              c.call(noteWrite, target, bytes);
              advance(c, s, Gpr.RSI, bytes.u64());
              advance(c, s, Gpr.RDI, bytes.u64());
              setMasked(c, s, Gpr.RCX, count.sub(elements));
              done();
            });
          });
        });
      });
    });
  });

for (const [name, bits, opcode] of [
  ["STOSB", 8, "AA"],
  ["STOS", 0, "AB"],
] as const)
  insn(name, opcode, "", bits === 8 ? {} : { sizes: [16, 32, 64] }, (c) => {
    const width = bits === 8 ? 8 : c.opsize;
    const s = context(c, width);
    const value = c.readGpr(Gpr.RAX, width);
    const element = (): void => {
      c.writeAt(width, targetAddress(c, s, width, true), value);
      advance(c, s, Gpr.RDI);
    };
    // A fill needs equal bytes; zero is what guests store.
    const bytes = value.and(0xff);
    const uniform = c.let(bytes.mul(0x0101_0101_0101_0101n).zeroExtend(width).eq(value));
    repeat(c, s, element, (count, done) => {
      c.if(
        s.step
          .gtS(0)
          .and(isFlat(c, c.i32(Seg.ES)))
          .and(uniform)
          .and(count.gtU(3)),
        () => {
          const to = c.call<I64>(segmentAddress, c.i32(Seg.ES), masked(c, s, Gpr.RDI), c.i32(1), c.i32(1));
          const elements = least(c, count, toPageEnd(to).divU(width / 8));
          c.if(elements.gtU(3), () => {
            const target = c.call<I32>(plainTarget, to);
            c.leaveOnEvent();
            c.if(target, () => {
              const length = c.let(elements.mul(width / 8).wrap());
              c.fill(target, bytes.wrap(), length);
              c.call(noteWrite, target, length);
              advance(c, s, Gpr.RDI, length.u64());
              setMasked(c, s, Gpr.RCX, count.sub(elements));
              done();
            });
          });
        },
      );
    });
  });

for (const [name, bits, opcode] of [
  ["LODSB", 8, "AC"],
  ["LODS", 0, "AD"],
] as const)
  insn(name, opcode, "", bits === 8 ? {} : { sizes: [16, 32, 64] }, (c) => {
    const width = bits === 8 ? 8 : c.opsize;
    const s = context(c, width);
    repeat(c, s, () => {
      const value = c.readAt(width, sourceAddress(c, s, width));
      c.writeGpr(Gpr.RAX, width, value);
      advance(c, s, Gpr.RSI);
    });
  });

/** Ends a comparing loop where the prefix says: REPE (1) on a difference, REPNE (2) on equality. */
const stopOn = (c: Insn, equal: I32): I32 => c.field("d").and(3).eq(1).select(equal.eqz(), equal);

for (const [name, bits, opcode] of [
  ["SCASB", 8, "AE"],
  ["SCAS", 0, "AF"],
] as const)
  insn(name, opcode, "", bits === 8 ? {} : { sizes: [16, 32, 64] }, (c) => {
    const width = bits === 8 ? 8 : c.opsize;
    const s = context(c, width);
    comparing(c, s, width, () => {
      const b = c.readAt(width, targetAddress(c, s, width, false));
      const a = c.readGpr(Gpr.RAX, width);
      advance(c, s, Gpr.RDI);
      return [a, b];
    });
  });

for (const [name, bits, opcode] of [
  ["CMPSB", 8, "A6"],
  ["CMPS", 0, "A7"],
] as const)
  insn(name, opcode, "", bits === 8 ? {} : { sizes: [16, 32, 64] }, (c) => {
    const width = bits === 8 ? 8 : c.opsize;
    const s = context(c, width);
    comparing(c, s, width, () => {
      const b = c.readAt(width, targetAddress(c, s, width, false));
      const a = c.readAt(width, sourceAddress(c, s, width));
      advance(c, s, Gpr.RSI);
      advance(c, s, Gpr.RDI);
      return [a, b];
    });
  });

/** SCAS and CMPS: flags follow every element, so that a fault in the next finds them as they should be. */
function comparing(c: Insn, s: StringContext, width: number, element: () => [I64, I64]): void {
  repeat(c, s, (stop) => {
    const [a, b] = element();
    c.flags(FlagKind.SUB, width, a, a.sub(b));
    stop(stopOn(c, a.eq(b)));
  });
}
