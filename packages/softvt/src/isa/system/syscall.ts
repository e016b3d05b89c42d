import { readFlags, writeFlags } from "../../cpu/flags.ts";
import { Cpu, gpr, Seg } from "../../cpu/layout.ts";
import { updateMode } from "../../cpu/mode.ts";
import { storeFixed } from "../../cpu/segments.ts";
import { Slot } from "../../cpu/slots.ts";
import { EFER, get32, get64, RFLAGS, set32, set64, Vector } from "../../cpu/state.ts";
import { LOW32, longMode, nonCanonical } from "../../cpu/system.ts";
import type { I32 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { insn } from "../registry.ts";
import { finish } from "./common.ts";

/** Fast system calls, the GS swap and the bases of FS and GS (SDM Vol. 2). Access rights in VMCS format. */

const CODE64 = 0xa09b;
const CODE32 = 0xc09b;
const DATA = 0xc093;
const USER = 0x60;

insn("SYSCALL", "0F 05", "", { mode: "only64", ends: true }, (c) => {
  c.faultIf(get64(c, Cpu.EFER).wrap().and(EFER.SCE).eqz(), Vector.UD);
  const flags = c.let(c.call<I32>(readFlags).and(~RFLAGS.RF));
  c.writeGpr(1, 64, c.nextRip());
  c.writeGpr(11, 64, flags.u64());
  const entered = flags.and(get64(c, Cpu.FMASK).wrap().xor(-1)).and(~RFLAGS.VM);
  c.call(writeFlags, entered);
  // No single-step trap follows where the mask takes TF away.
  set32(c, Slot.NO_STEP_TRAP, entered.and(RFLAGS.TF).eqz());
  const selector = c.let(get64(c, Cpu.STAR).shrU(32).wrap().and(0xfffc));
  storeFixed(c, Seg.CS, selector, CODE64);
  storeFixed(c, Seg.SS, selector.add(8).and(0xffff), DATA);
  set32(c, Cpu.CPL, 0);
  set64(c, Cpu.RIP, get64(c, Cpu.LSTAR));
  c.call(updateMode);
  finish(c);
});

insn("SYSRET", "0F 07", "", { mode: "only64", sizes: [32, 64], ends: true }, (c) => {
  c.faultIf(get64(c, Cpu.EFER).wrap().and(EFER.SCE).eqz(), Vector.UD);
  c.requireCpl0();
  const rip = c.let(c.opsize === 64 ? c.readGpr(1, 64) : c.readGpr(1, 32));
  if (c.opsize === 64) c.faultIf(nonCanonical(rip), Vector.GP);
  c.call(writeFlags, c.readGpr(11, 64).wrap().and(0x3c_7fd7));
  const selector = c.let(get64(c, Cpu.STAR).shrU(48).wrap());
  const cs = (c.opsize === 64 ? selector.add(16) : selector).or(3).and(0xffff);
  storeFixed(c, Seg.CS, cs, (c.opsize === 64 ? CODE64 : CODE32) | USER);
  storeFixed(c, Seg.SS, selector.add(8).or(3).and(0xffff), DATA | USER);
  set32(c, Cpu.CPL, 3);
  set64(c, Cpu.RIP, rip);
  c.call(updateMode);
  finish(c);
});

const requireSysenter = (c: Insn): void =>
  c.faultIf(get64(c, Cpu.SYSENTER_CS).wrap().and(0xfffc).eqz(), Vector.GP);

insn("SYSENTER", "0F 34", "", { ends: true }, (c) => {
  c.faultIf(get64(c, Cpu.CR0).bit(0).eqz(), Vector.GP);
  requireSysenter(c);
  const long = c.let(longMode(c));
  const mask = long.select(c.i64(-1), c.i64(LOW32));
  const cleared = ~(RFLAGS.VM | RFLAGS.IF | RFLAGS.RF);
  set32(c, Cpu.RFLAGS, get32(c, Cpu.RFLAGS).and(cleared));
  const selector = c.let(get64(c, Cpu.SYSENTER_CS).wrap().and(0xfffc));
  storeFixed(c, Seg.CS, selector, long.select(c.i32(CODE64), c.i32(CODE32)));
  storeFixed(c, Seg.SS, selector.add(8).and(0xffff), DATA);
  set64(c, gpr(4), get64(c, Cpu.SYSENTER_ESP).and(mask));
  set64(c, Cpu.RIP, get64(c, Cpu.SYSENTER_EIP).and(mask));
  set32(c, Cpu.CPL, 0);
  c.call(updateMode);
  finish(c);
});

insn("SYSEXIT", "0F 35", "", { sizes: [32, 64], ends: true }, (c) => {
  requireSysenter(c);
  c.faultIf(get64(c, Cpu.CR0).bit(0).eqz(), Vector.GP);
  c.requireCpl0();
  const rip = c.let(c.readGpr(2, c.opsize));
  const rsp = c.let(c.readGpr(1, c.opsize));
  if (c.opsize === 64) c.faultIf(nonCanonical(rip).or(nonCanonical(rsp)), Vector.GP);
  const base = c.let(
    get64(c, Cpu.SYSENTER_CS)
      .wrap()
      .and(0xfffc)
      .add(c.opsize === 64 ? 32 : 16),
  );
  storeFixed(c, Seg.CS, base.or(3).and(0xffff), (c.opsize === 64 ? CODE64 : CODE32) | USER);
  storeFixed(c, Seg.SS, base.add(8).or(3).and(0xffff), DATA | USER);
  set64(c, gpr(4), rsp);
  set64(c, Cpu.RIP, rip);
  set32(c, Cpu.CPL, 3);
  c.call(updateMode);
  finish(c);
});

insn("SWAPGS", "NP 0F 01 =F8", "", { mode: "only64", flags: "none" }, (c) => {
  c.requireCpl0();
  const base = c.let(get64(c, Cpu.SEG_BASE + 8 * Seg.GS));
  set64(c, Cpu.SEG_BASE + 8 * Seg.GS, get64(c, Cpu.KERNEL_GS_BASE));
  set64(c, Cpu.KERNEL_GS_BASE, base);
});

const requireFsgsbase = (c: Insn): void => c.faultIf(get64(c, Cpu.CR4).bit(16).eqz(), Vector.UD);

for (const [name, seg, digit] of [
  ["FS", Seg.FS, 0],
  ["GS", Seg.GS, 1],
] as const) {
  const field = Cpu.SEG_BASE + 8 * seg;
  insn(`RD${name}BASE`, `F3 0F AE /${digit}`, "Ry=", { mode: "only64", feature: "fsgsbase" }, (c) => {
    requireFsgsbase(c);
    c.write(0, get64(c, field));
  });
  insn(`WR${name}BASE`, `F3 0F AE /${digit + 2}`, "Ry", { mode: "only64", feature: "fsgsbase" }, (c) => {
    requireFsgsbase(c);
    const base = c.let(c.read(0));
    if (c.opsize === 64) c.faultIf(nonCanonical(base), Vector.GP);
    set64(c, field, base);
  });
}
