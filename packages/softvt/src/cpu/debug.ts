import { fn, type I32 } from "../ir/builder.ts";
import { Cpu, Shadow } from "./layout.ts";
import { Slot } from "./slots.ts";
import { get32, get64, RFLAGS, set32, set64 } from "./state.ts";

/**
 * Debug exceptions (SDM Vol. 3B ch. 18): single step and instruction breakpoints. While TF is set or DR7 enables
 * any breakpoint the dispatcher runs instructions one at a time and asks here before and after each.
 *
 * Not done: data and I/O breakpoints (DR7.RWn 1 to 3 never match), branch stepping (DEBUGCTL.BTF).
 */

const DR6 = Cpu.DR + 6 * 8;
const DR7 = Cpu.DR + 7 * 8;

export const DR6_BS = 0x4000n;

/** What a step began with: bits of `afterStep`'s argument. */
export const StepFlag = { TF: 0x100, RF: 0x200 } as const;

/**
 * 1 if an instruction breakpoint holds at linear address `rip` and RF does not suppress it: DR6 then says
 * which, and #DB is to be delivered as a fault.
 */
export const instructionBreakpoint = fn("instructionBreakpoint", ["i64"], "i32", (f, rip) => {
  f.if(get32(f, Cpu.RFLAGS).and(RFLAGS.RF), () => f.return(f.i32(0)));
  const dr7 = f.let(get64(f, DR7).wrap());
  const matches = f.variable("i32", f.i32(0));
  const enabled = f.variable("i32", f.i32(0));
  for (let i = 0; i < 4; i++) {
    const isExecute = dr7
      .shrU(16 + 4 * i)
      .and(3)
      .eqz();
    const match = isExecute.and(get64(f, Cpu.DR + 8 * i).eq(rip));
    matches.set(matches.get().or(match.shl(i)));
    enabled.set(
      enabled.get().or(
        match.and(
          dr7
            .shrU(2 * i)
            .and(3)
            .ne(0),
        ),
      ),
    );
  }
  f.if(enabled.get().eqz(), () => f.return(f.i32(0)));
  // B0 to B3 also tell of conditions that are met without being enabled.
  set64(f, DR6, get64(f, DR6).and(~0xfn).or(matches.get().u64()));
  f.return(f.i32(1));
});

/**
 * After an instruction that ran on its own and did not fault: 1 if a single-step trap follows, with DR6.BS
 * set. `began`: `StepFlag` bits, TF and RF as they were before it.
 */
export const afterStep = fn("afterStep", ["i32"], "i32", (f, began) => {
  const suppressed: I32 = f.let(get32(f, Slot.NO_STEP_TRAP));
  set32(f, Slot.NO_STEP_TRAP, 0);
  // RF lasts for one instruction. IRET may have set it for the next, but then it was clear here.
  f.if(began.and(StepFlag.RF), () => set32(f, Cpu.RFLAGS, get32(f, Cpu.RFLAGS).and(~RFLAGS.RF)));
  // A load of SS holds the trap off until the instruction behind it is done (SDM Vol. 3A sec. 6.8.3).
  const shadow = get32(f, Cpu.SHADOW).and(Shadow.MOV_SS);
  f.if(began.and(StepFlag.TF).eqz().or(suppressed).or(shadow), () => f.return(f.i32(0)));
  set64(f, DR6, get64(f, DR6).or(DR6_BS));
  f.return(f.i32(1));
});
