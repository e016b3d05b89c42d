import { writeCr0, writeCr3, writeCr4, writeXcr0 } from "../../cpu/control.ts";
import { Cpu, Event } from "../../cpu/layout.ts";
import { replayed } from "../../cpu/memory.ts";
import { updateMode } from "../../cpu/mode.ts";
import { flushPage, flushTlb } from "../../cpu/paging.ts";
import { updateSse } from "../../cpu/sse-state.ts";
import { CR0, get32, get64, RFLAGS, set32, set64, Vector } from "../../cpu/state.ts";
import { nonCanonical } from "../../cpu/system.ts";
import type { I64 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { insn } from "../registry.ts";
import { checkUmip, readOperandAt, writeWord } from "./common.ts";

/** Control registers and what goes with them (SDM Vol. 2 MOV CR, LMSW, CLTS, INVLPG, XSETBV, CLAC). */

const F64 = { size64: "f64" } as const;

/** Exits for CR8, the task priority, which the host's local APIC keeps: direction (1 reads), value. */
function exitForCr8(c: Insn, isRead: number, value: I64): void {
  set32(c, Cpu.EXIT_REASON, 28);
  set32(c, Cpu.EXIT_A, isRead);
  set32(c, Cpu.EXIT_B, value.wrap());
  set32(c, Cpu.EVENT, Event.EXIT_RETRY);
  c.leave();
}

insn("MOV", "0F 20", "Ry=,C", F64, (c) => {
  c.requireCpl0();
  const read = (field: number) => (): void => c.write(0, get64(c, field));
  c.switch(
    c.field("a"),
    [
      read(Cpu.CR0),
      () => c.undefined(),
      read(Cpu.CR2),
      read(Cpu.CR3),
      read(Cpu.CR4),
      () => c.undefined(),
      () => c.undefined(),
      () => c.undefined(),
      () =>
        replayed(
          c,
          (value) => c.write(0, value.and(15)),
          () => exitForCr8(c, 1, c.i64(0)),
        ),
    ],
    () => c.undefined(),
  );
});

insn("MOV", "0F 22", "C,Ry", { ...F64, ends: true }, (c) => {
  c.requireCpl0();
  const value = c.let(c.read(1));
  const call = (fn: typeof writeCr0) => (): void => {
    c.call(fn, value);
    c.leaveOnEvent();
  };
  c.switch(
    c.field("a"),
    [
      call(writeCr0),
      () => c.undefined(),
      () => set64(c, Cpu.CR2, value),
      call(writeCr3),
      call(writeCr4),
      () => c.undefined(),
      () => c.undefined(),
      () => c.undefined(),
      () => {
        c.faultIf(value.and(~0xfn).ne(0), Vector.GP);
        replayed(
          c,
          () => {},
          () => exitForCr8(c, 0, value),
        );
      },
    ],
    () => c.undefined(),
  );
  c.resync();
});

insn("SMSW", "0F 01 /4", "Ev=", {}, (c) => {
  checkUmip(c);
  writeWord(c, 0, get64(c, Cpu.CR0));
});

insn("LMSW", "0F 01 /6", "Ew", { ends: true }, (c) => {
  c.requireCpl0();
  const old = get64(c, Cpu.CR0);
  // PE, MP, EM and TS; PE can be set but not cleared.
  const low = c.read(0).and(0xf);
  c.call(writeCr0, old.and(~0xen).or(low));
  c.leaveOnEvent();
  c.resync();
});

insn("CLTS", "0F 06", "", { ends: true }, (c) => {
  c.requireCpl0();
  set64(c, Cpu.CR0, get64(c, Cpu.CR0).and(~BigInt(CR0.TS)));
  c.call(updateSse);
  c.resync();
});

insn("INVLPG", "0F 01 /7", "M", { ends: true }, (c) => {
  c.requireCpl0();
  c.call(flushPage, c.address(8));
  c.resync();
});

insn("INVPCID", "66 0F 38 82", "Gy,M", { ...F64, sizes: [32, 64], ends: true, protectedOnly: true }, (c) => {
  c.requireCpl0();
  const type = c.let(c.read(0));
  const va = c.let(c.address(128));
  const pcid = c.let(readOperandAt(c, 64, va));
  const linear = c.let(readOperandAt(c, 64, va.add(8)));
  const pcide = get64(c, Cpu.CR4).bit(17);
  const bad = type
    .gtU(3)
    .or(pcid.shrU(12).ne(0))
    .or(type.leU(1).and(pcid.ne(0)).and(pcide.eqz()))
    .or(type.eqz().and(nonCanonical(linear)));
  c.faultIf(bad, Vector.GP);
  c.if(
    type.eqz(),
    () => c.call(flushPage, linear),
    () => c.call(flushTlb),
  );
  c.resync();
});

// There are no caches to write back.
for (const [name, encoding] of [
  ["INVD", "0F 08"],
  ["WBINVD", "0F 09"],
  ["WBNOINVD", "F3 0F 09"],
] as const)
  insn(name, encoding, "", {}, (c) => c.requireCpl0());

const requireOsxsave = (c: Insn): void => c.faultIf(get64(c, Cpu.CR4).bit(18).eqz(), Vector.UD);

insn("XGETBV", "NP 0F 01 =D0", "", {}, (c) => {
  requireOsxsave(c);
  const index = c.readGpr(1, 32).wrap();
  // Index 1 (the components in use) comes with XGETBV's ECX = 1 form, which CPUID does not offer.
  c.faultIf(index.ne(0), Vector.GP);
  const value = get64(c, Cpu.XCR0);
  c.writeGpr(0, 32, value);
  c.writeGpr(2, 32, value.shrU(32));
});

insn("XSETBV", "NP 0F 01 =D1", "", { ends: true }, (c) => {
  requireOsxsave(c);
  c.requireCpl0();
  c.faultIf(c.readGpr(1, 32).ne(0), Vector.GP);
  c.call(writeXcr0, c.readGpr(0, 32).or(c.readGpr(2, 32).shl(32)));
  c.leaveOnEvent();
  c.resync();
});

for (const [name, encoding, set] of [
  ["CLAC", "NP 0F 01 =CA", false],
  ["STAC", "NP 0F 01 =CB", true],
] as const)
  insn(name, encoding, "", { feature: "smap" }, (c) => {
    c.faultIf(get32(c, Cpu.CPL), Vector.UD);
    const flags = get32(c, Cpu.RFLAGS);
    set32(c, Cpu.RFLAGS, set ? flags.or(RFLAGS.AC) : flags.and(~RFLAGS.AC));
    c.call(updateMode);
  });
