import { Cpu, Event } from "../../cpu/layout.ts";
import { replayed } from "../../cpu/memory.ts";
import { readMsr, writeMsr } from "../../cpu/msr.ts";
import { get32, get64, set32, set64, Vector } from "../../cpu/state.ts";
import { readTsc } from "../../cpu/tsc.ts";
import { hostFn, type I64 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { insn } from "../registry.ts";
import { readOperandAt } from "./common.ts";

/** CPUID, MSRs, time, HLT, hypercalls, random numbers, cache hints and the undefined instructions (SDM Vol. 2). */

/** Leaves for an exit after which the instruction is executed again, its answers in REPLAY. */
function exit(c: Insn, reason: number): void {
  set32(c, Cpu.EXIT_REASON, reason);
  set32(c, Cpu.EVENT, Event.EXIT_RETRY);
  c.leave();
}

insn("CPUID", "0F A2", "", {}, (c) => {
  const ask = (): void => {
    set32(c, Cpu.EXIT_A, c.readGpr(0, 32).wrap());
    set32(c, Cpu.EXIT_B, c.readGpr(1, 32).wrap());
    exit(c, 10);
  };
  const leaf = c.let(c.readGpr(0, 32));
  const low = c.variable("i64", c.i64(0));
  replayed(c, (value) => low.set(value), ask);
  replayed(
    c,
    (high) => {
      c.writeGpr(0, 32, low.get());
      // Leaf 0xD, part 0, has the size of an XSAVE area of what XCR0 has enabled, if there is XSAVE.
      const ebx = c.let(low.get().shrU(32));
      const size = get64(c, Cpu.XCR0).bit(2).select(c.i64(832), c.i64(576));
      const isSize = leaf.eq(0xd).and(c.readGpr(1, 32).eqz()).and(ebx.ne(0));
      c.writeGpr(3, 32, isSize.select(size, ebx));
      // Leaf 1 mirrors CR4.OSXSAVE, which the host does not know.
      const osxsave = get64(c, Cpu.CR4).shrU(18).and(1).shl(27);
      const patched = high.and(~(1n << 27n)).or(osxsave);
      c.writeGpr(1, 32, leaf.eq(1).select(patched, high));
      c.writeGpr(2, 32, high.shrU(32));
    },
    ask,
  );
});

insn("HLT", "F4", "", { ends: true }, (c) => {
  c.requireCpl0();
  set32(c, Cpu.ACTIVITY, 1);
  set32(c, Cpu.EXIT_REASON, 12);
  set64(c, Cpu.RIP, c.nextRip());
  set32(c, Cpu.EVENT, Event.EXIT_DONE);
  c.leave();
});

insn("PAUSE", "F3 90", "", { flags: "none" }, () => {});

insn("RDMSR", "0F 32", "", {}, (c) => {
  c.requireCpl0();
  const value = c.let(c.call<I64>(readMsr, c.readGpr(1, 32).wrap()));
  c.leaveOnEvent();
  c.writeGpr(0, 32, value);
  c.writeGpr(2, 32, value.shrU(32));
});

insn("WRMSR", "0F 30", "", { ends: true }, (c) => {
  c.requireCpl0();
  const value = c.readGpr(0, 32).or(c.readGpr(2, 32).shl(32));
  c.call(writeMsr, c.readGpr(1, 32).wrap(), value);
  c.leaveOnEvent();
  c.resync();
});

/** #GP(0) outside CPL 0 while CR4.TSD is set. */
function readTime(c: Insn): I64 {
  c.faultIf(get64(c, Cpu.CR4).bit(2).and(get32(c, Cpu.CPL).ne(0)), Vector.GP);
  const value = c.let(c.call<I64>(readTsc));
  c.leaveOnEvent();
  return value;
}

insn("RDTSC", "0F 31", "", {}, (c) => {
  const value = readTime(c);
  c.writeGpr(0, 32, value);
  c.writeGpr(2, 32, value.shrU(32));
});

insn("RDTSCP", "0F 01 =F9", "", { feature: "rdtscp" }, (c) => {
  const value = readTime(c);
  c.writeGpr(0, 32, value);
  c.writeGpr(2, 32, value.shrU(32));
  c.writeGpr(1, 32, get64(c, Cpu.TSC_AUX));
});

insn("RDPID", "F3 0F C7 /7", "Ry=", { size64: "f64", feature: "rdpid" }, (c) => {
  c.write(0, get64(c, Cpu.TSC_AUX));
});

/** No performance counter is offered. */
insn("RDPMC", "0F 33", "", {}, (c) => c.fault(Vector.GP));

// Done when it exits: the host writes the result to RAX.
for (const [name, encoding] of [
  ["VMCALL", "NP 0F 01 =C1"],
  ["VMMCALL", "0F 01 =D9"],
] as const)
  insn(name, encoding, "", { ends: true }, (c) => {
    set32(c, Cpu.EXIT_REASON, 18);
    set64(c, Cpu.RIP, c.nextRip());
    set32(c, Cpu.EVENT, Event.EXIT_DONE);
    c.leave();
  });

/** 64 random bits from the host. */
const random = hostFn("random", [], "i64");

for (const [name, digit, feature] of [
  ["RDRAND", "/6", "rdrand"],
  ["RDSEED", "/7", "rdseed"],
] as const)
  insn(name, `0F C7 ${digit}`, "Rv=", { feature }, (c) => {
    c.write(0, c.call<I64>(random));
    c.explicitFlags(c.i32(1));
  });

for (const [name, encoding] of [
  ["UD2", "0F 0B"],
  ["RSM", "0F AA"],
] as const)
  insn(name, encoding, "", {}, (c) => c.undefined());
insn("UD1", "0F B9", "Gv,Ev", {}, (c) => c.undefined());
insn("UD0", "0F FF", "Gv,Ev", {}, (c) => c.undefined());

// Hints: no access, not even a check of the address.
for (let opcode = 0x18; opcode <= 0x1f; opcode++)
  insn("NOP", `0F ${opcode.toString(16).toUpperCase()}`, "Ev", { flags: "none" }, () => {});
insn("PREFETCHW", "0F 0D", "Ev", { flags: "none" }, () => {});

for (const [name, digit] of [
  ["LFENCE", "/5"],
  ["MFENCE", "/6"],
  ["SFENCE", "/7"],
] as const)
  insn(name, `NP 0F AE ${digit}`, "", { flags: "none" }, () => {});

// There are no caches; but the byte must be accessible.
for (const [name, encoding] of [
  ["CLFLUSH", "NP 0F AE /7"],
  ["CLFLUSHOPT", "66 0F AE /7"],
  ["CLWB", "66 0F AE /6"],
] as const)
  insn(name, encoding, "M", {}, (c) => {
    readOperandAt(c, 8, c.address(8));
  });
