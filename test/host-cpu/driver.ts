/**
 * The native side of the host oracle: machine code that enters a test with a given processor state and comes back
 * with the state in which the test trapped.
 *
 *     run() -> save the caller's state -> install signal handlers -> load test state -> IRETQ -> test code
 *                                                                                                  | trap, fault
 *     run() returns <- restore everything <- copy the signal frame to the control block <- handler on its own stack
 *
 * The handler does not return through `rt_sigreturn`: it reloads RSP and falls into the way out. That is sound
 * because SA_NODEFER with an empty mask leaves nothing blocked, and it saves a system call and an XRSTOR.
 *
 * All handlers are installed and removed within one call, so V8's own SIGSEGV handler (wasm bounds checks) is in
 * place whenever JavaScript runs. A signal that another thread takes meanwhile is passed to the handler it had.
 *
 * Why IRETQ: it loads RIP, CS, RFLAGS, SS and RSP at once, serves 64-bit and compatibility code alike, and is
 * serialising, which code written through another mapping of its page needs (SDM Vol. 3A sec. 11.6).
 */

import { Assembler, CC } from "./assembler.ts";
import { type Mem, PREFIX, REG } from "./encode.ts";

/** Offsets in the control block, bytes. Everything is 8-aligned: a test may leave RFLAGS.AC set. */
export const CTL = {
  IN_GPR: 0x000,
  IN_RIP: 0x080,
  IN_RFLAGS: 0x088,
  IN_CS: 0x090,
  IN_SS: 0x098,
  /** DS and ES. */
  IN_DATA_SELECTOR: 0x0a0,
  IN_FS_BASE: 0x0a8,
  IN_GS_BASE: 0x0b0,
  /** `struct sigcontext` up to its fpstate pointer: 23 words, see SIGCONTEXT. */
  OUT_REGS: 0x100,
  OUT_SIGNAL: 0x1c0,
  OUT_SI_CODE: 0x1c8,
  /** DS, ES, FS, GS: a word every 8 bytes. */
  OUT_SELECTORS: 0x1d0,
  OUT_FS_BASE: 0x1f0,
  OUT_GS_BASE: 0x1f8,
  /** FXSAVE64 images, 512 bytes each; the first two begin XSAVE areas with AVX's component, 832 bytes. */
  IN_FX: 0x400,
  OUT_FX: 0x800,
  SAVED_FX: 0xc00,
  SAVED_RSP: 0xe00,
  SAVED_SELECTORS: 0xe08,
  SAVED_FS_BASE: 0xe28,
  SAVED_GS_BASE: 0xe30,
  RUNNING: 0xe38,
  ALT_LOW: 0xe40,
  ALT_HIGH: 0xe48,
  TIMER: 0xe50,
  NEW_MASK: 0xe58,
  OLD_MASK: 0xe60,
  /** `stack_t`, 24 bytes. */
  NEW_STACK: 0xe68,
  OLD_STACK: 0xe80,
  /** `struct itimerspec`, 32 bytes. */
  ARM: 0xe98,
  DISARM: 0xeb8,
  /** The kernel's `struct sigaction`, 32 bytes: handler, flags, restorer, mask. */
  NEW_ACTION: 0xed8,
  /** 1 where there are YMM registers. */
  HAS_AVX: 0xef8,
  OLD_ACTIONS: 0xf00,
  BYTES: 0x1700,
} as const;

/** Index of each word of OUT_REGS (`struct sigcontext_64`, Linux arch/x86/include/uapi/asm/sigcontext.h). */
export const SIGCONTEXT = {
  /** Where RAX, RCX, RDX … R15 are, in the architecture's order. */
  GPR: [13, 14, 12, 11, 15, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7],
  RIP: 16,
  RFLAGS: 17,
  /** CS in the low word, SS in the high. */
  SELECTORS: 18,
  ERR: 19,
  TRAPNO: 20,
  CR2: 22,
  WORDS: 23,
} as const;

/** The standard XSAVE area (SDM Vol. 1 sec. 13.4): offsets, its size with AVX's component, that one's bit. */
export const XSAVE = { XSTATE_BV: 512, UPPER: 576, BYTES: 832, AVX: 4 } as const;

export const SIGNAL = { ILL: 4, TRAP: 5, BUS: 7, FPE: 8, SEGV: 11, VTALRM: 26, SYS: 31 } as const;
const SIGNALS = Object.values(SIGNAL);

/** SA_SIGINFO | SA_RESTORER | SA_ONSTACK | SA_NODEFER */
export const ACTION_FLAGS = 0x4c000004;
/** Every signal blocked but those that end a test. */
export const RUN_MASK = ~SIGNALS.reduce((mask, signal) => mask | (1n << BigInt(signal - 1)), 0n);

const SYS = {
  rt_sigaction: 13,
  rt_sigprocmask: 14,
  rt_sigreturn: 15,
  sigaltstack: 131,
  prctl: 157,
  timer_settime: 223,
} as const;
const SIG_SETMASK = 2;
/** Linux 5.11: system calls from outside one code range become SIGSYS. */
export const PR_SET_SYSCALL_USER_DISPATCH = 59;

const UCONTEXT_SIGCONTEXT = 40;
const UCONTEXT_FPSTATE = 224;
const SIGINFO_CODE = 8;

const { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R10, R12, R13, R14, R15 } = REG;
/** Segment registers as ModRM.reg of MOV. */
const SEG = { ES: 0, DS: 3, FS: 4, GS: 5 } as const;
const SELECTOR_ORDER = [SEG.DS, SEG.ES, SEG.FS, SEG.GS];

export interface Driver {
  code: Uint8Array;
  /** `void run(void)` */
  run: bigint;
  /** `void cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4])` */
  cpuid: bigint;
  /** `uint64_t xgetbv(void)`: XCR0; only where CPUID says OSXSAVE. */
  xgetbv: bigint;
  handler: bigint;
  restorer: bigint;
}

/**
 * Assembles the driver for its address.
 * @param base where the code will be mapped.
 * @param codeBytes size of that mapping: the range from which system calls stay allowed.
 * @param control address of the control block, 16-aligned.
 */
export function assembleDriver(base: bigint, codeBytes: number, control: bigint): Driver {
  const a = new Assembler(base);
  const at = (offset: number): Mem => ({ base: RBX, disp: offset });

  a.label("run");
  for (const register of [RBX, RBP, R12, R13, R14, R15]) a.push(register);
  a.raw(0x9c); // pushfq
  a.movImm(RBX, control);
  a.store(at(CTL.SAVED_RSP), RSP);
  fxsave(a, at(CTL.SAVED_FX));
  saveSegments(a, at, CTL.SAVED_SELECTORS, CTL.SAVED_FS_BASE, CTL.SAVED_GS_BASE);
  installSignals(a, at);
  systemCall(a, SYS.prctl, PR_SET_SYSCALL_USER_DISPATCH, 1, base, codeBytes, 0);
  enterTest(a, at);

  a.label("handler"); // rdi: signal, rsi: siginfo, rdx: ucontext
  a.raw(0x68, 0x02, 0x02, 0x00, 0x00, 0x9d); // push 0x202; popfq: the kernel leaves AC as the test had it
  a.movImm(RAX, control);
  // Only the thread that runs the test has our alternate stack.
  a.cmp(RSP, { base: RAX, disp: CTL.ALT_LOW });
  a.jcc(CC.B, "chain");
  a.cmp(RSP, { base: RAX, disp: CTL.ALT_HIGH });
  a.jcc(CC.AE, "chain");
  a.cmpImm({ base: RAX, disp: CTL.RUNNING }, 0);
  a.jcc(CC.E, "idle");
  a.mov(RBX, RAX);
  a.storeImm(at(CTL.RUNNING), 0);
  recordFrame(a, at);
  a.load(RSP, at(CTL.SAVED_RSP));
  restoreSegments(a, at);
  systemCall(a, SYS.prctl, PR_SET_SYSCALL_USER_DISPATCH, 0, 0, 0, 0);
  removeSignals(a, at);
  fxrstor(a, at(CTL.SAVED_FX));
  a.cmpImm(at(CTL.HAS_AVX), 0);
  a.jcc(CC.E, "left");
  a.raw(0xc5, 0xf8, 0x77); // vzeroupper
  a.label("left");
  a.raw(0x9d); // popfq
  for (const register of [R15, R14, R13, R12, RBP, RBX]) a.pop(register);
  a.ret();

  // Outside a test: the watchdog came too late and is ignored; anything else is not ours.
  a.label("idle");
  a.op({ opcode: 0x83, w: true, reg: 7, rm: RDI, immediates: [{ value: SIGNAL.VTALRM, bytes: 1 }] });
  a.jcc(CC.NE, "chain");
  a.ret();

  a.label("chain"); // rax: control block; rdi, rsi, rdx as the kernel set them
  a.mov(RCX, RDI);
  a.op({ opcode: 0xc1, w: true, reg: 4, rm: RCX, immediates: [{ value: 5, bytes: 1 }] }); // shl rcx, 5
  a.lea(RCX, { base: RAX, index: RCX, disp: CTL.OLD_ACTIONS });
  a.load(R8, { base: RCX });
  a.op({ opcode: 0x83, w: true, reg: 7, rm: R8, immediates: [{ value: 1, bytes: 1 }] });
  a.jcc(CC.BE, "default");
  a.op({ opcode: 0xff, reg: 4, rm: R8 }); // jmp r8
  a.label("default"); // SIG_DFL: put it back and let the instruction fault again
  a.mov(RSI, RCX);
  a.movImm(RDX, 0);
  a.movImm(R10, 8);
  a.movImm(RAX, SYS.rt_sigaction);
  a.raw(0x0f, 0x05);
  a.ret();

  a.label("restorer");
  a.movImm(RAX, SYS.rt_sigreturn);
  a.raw(0x0f, 0x05);

  a.label("cpuid");
  a.push(RBX);
  a.mov(R8, RDX);
  a.mov(RAX, RDI);
  a.mov(RCX, RSI);
  a.raw(0x0f, 0xa2);
  for (const [i, register] of [RAX, RBX, RCX, RDX].entries()) {
    a.op({ opcode: 0x89, reg: register, rm: { base: R8, disp: 4 * i } });
  }
  a.pop(RBX);
  a.ret();

  a.label("xgetbv");
  a.raw(0x31, 0xc9, 0x0f, 0x01, 0xd0); // xor ecx, ecx; xgetbv
  a.op({ opcode: 0xc1, w: true, reg: 4, rm: RDX, immediates: [{ value: 32, bytes: 1 }] });
  a.op({ opcode: 0x0b, w: true, reg: RAX, rm: RDX });
  a.ret();

  const [run, cpuid, xgetbv, handler, restorer] = ["run", "cpuid", "xgetbv", "handler", "restorer"].map((l) =>
    a.address(l),
  ) as [bigint, bigint, bigint, bigint, bigint];
  return { code: a.finish(), run, cpuid, xgetbv, handler, restorer };
}

type At = (offset: number) => Mem;

/** An argument of a system call: a constant, or the address or the value of a word in the control block. */
type Argument = number | bigint | { address: Mem } | { value: Mem };

function systemCall(a: Assembler, number: number, ...args: Argument[]): void {
  for (const [i, arg] of args.entries()) {
    const register = [RDI, RSI, RDX, R10, R8][i]!;
    if (typeof arg !== "object") a.movImm(register, arg);
    else if ("address" in arg) a.lea(register, arg.address);
    else a.load(register, arg.value);
  }
  a.movImm(RAX, number);
  a.raw(0x0f, 0x05);
}

function installSignals(a: Assembler, at: At): void {
  const address = (offset: number): Argument => ({ address: at(offset) });
  systemCall(a, SYS.rt_sigprocmask, SIG_SETMASK, address(CTL.NEW_MASK), address(CTL.OLD_MASK), 8);
  systemCall(a, SYS.sigaltstack, address(CTL.NEW_STACK), address(CTL.OLD_STACK));
  for (const signal of SIGNALS) {
    systemCall(a, SYS.rt_sigaction, signal, address(CTL.NEW_ACTION), address(oldAction(signal)), 8);
  }
  systemCall(a, SYS.timer_settime, { value: at(CTL.TIMER) }, 0, address(CTL.ARM), 0);
}

function removeSignals(a: Assembler, at: At): void {
  const address = (offset: number): Argument => ({ address: at(offset) });
  systemCall(a, SYS.timer_settime, { value: at(CTL.TIMER) }, 0, address(CTL.DISARM), 0);
  for (const signal of SIGNALS) systemCall(a, SYS.rt_sigaction, signal, address(oldAction(signal)), 0, 8);
  systemCall(a, SYS.sigaltstack, address(CTL.OLD_STACK), 0);
  systemCall(a, SYS.rt_sigprocmask, SIG_SETMASK, address(CTL.OLD_MASK), 0, 8);
}

function oldAction(signal: number): number {
  return CTL.OLD_ACTIONS + 32 * signal;
}

function enterTest(a: Assembler, at: At): void {
  fxrstor(a, at(CTL.IN_FX));
  a.cmpImm(at(CTL.HAS_AVX), 0);
  a.jcc(CC.E, "loaded");
  a.movImm(RAX, XSAVE.AVX);
  a.movImm(RDX, 0);
  a.op({ map: 1, opcode: 0xae, w: true, reg: 5, rm: at(CTL.IN_FX) }); // xrstor64
  a.label("loaded");
  a.load(RAX, at(CTL.IN_DATA_SELECTOR));
  a.op({ opcode: 0x8e, reg: SEG.DS, rm: RAX });
  a.op({ opcode: 0x8e, reg: SEG.ES, rm: RAX });
  a.load(RAX, at(CTL.IN_FS_BASE));
  segmentBase(a, "wrfsbase", RAX);
  a.load(RAX, at(CTL.IN_GS_BASE));
  segmentBase(a, "wrgsbase", RAX);
  a.storeImm(at(CTL.RUNNING), 1);
  for (const field of [CTL.IN_SS, CTL.IN_GPR + 8 * RSP, CTL.IN_RFLAGS, CTL.IN_CS, CTL.IN_RIP])
    a.pushMem(at(field));
  for (let register = 0; register < 16; register++) {
    if (register !== RSP && register !== RBX) a.load(register, at(CTL.IN_GPR + 8 * register));
  }
  a.load(RBX, at(CTL.IN_GPR + 8 * RBX));
  a.raw(0x48, 0xcf); // iretq
}

function recordFrame(a: Assembler, at: At): void {
  a.store(at(CTL.OUT_SIGNAL), RDI);
  a.op({ opcode: 0x63, w: true, reg: RAX, rm: { base: RSI, disp: SIGINFO_CODE } }); // movsxd
  a.store(at(CTL.OUT_SI_CODE), RAX);
  saveSegments(a, at, CTL.OUT_SELECTORS, CTL.OUT_FS_BASE, CTL.OUT_GS_BASE);
  a.load(RSI, { base: RDX, disp: UCONTEXT_FPSTATE });
  a.lea(RDI, at(CTL.OUT_FX));
  a.movImm(RCX, 512 / 8);
  a.cmpImm(at(CTL.HAS_AVX), 0);
  a.jcc(CC.E, "copy");
  a.movImm(RCX, XSAVE.BYTES / 8);
  a.label("copy");
  a.raw(0xf3, 0x48, 0xa5); // rep movsq
  a.lea(RSI, { base: RDX, disp: UCONTEXT_SIGCONTEXT });
  a.lea(RDI, at(CTL.OUT_REGS));
  a.movImm(RCX, SIGCONTEXT.WORDS);
  a.raw(0xf3, 0x48, 0xa5);
}

function saveSegments(a: Assembler, at: At, selectors: number, fsBase: number, gsBase: number): void {
  for (const [i, segment] of SELECTOR_ORDER.entries()) {
    a.op({ opcode: 0x8c, reg: segment, rm: at(selectors + 8 * i) });
  }
  segmentBase(a, "rdfsbase", RAX);
  a.store(at(fsBase), RAX);
  segmentBase(a, "rdgsbase", RAX);
  a.store(at(gsBase), RAX);
}

/** Selectors first: loading one sets the base. */
function restoreSegments(a: Assembler, at: At): void {
  for (const [i, segment] of SELECTOR_ORDER.entries()) {
    a.op({ opcode: 0x8e, reg: segment, rm: at(CTL.SAVED_SELECTORS + 8 * i) });
  }
  a.load(RAX, at(CTL.SAVED_FS_BASE));
  segmentBase(a, "wrfsbase", RAX);
  a.load(RAX, at(CTL.SAVED_GS_BASE));
  segmentBase(a, "wrgsbase", RAX);
}

function segmentBase(
  a: Assembler,
  name: "rdfsbase" | "rdgsbase" | "wrfsbase" | "wrgsbase",
  register: number,
): void {
  const reg = ["rdfsbase", "rdgsbase", "wrfsbase", "wrgsbase"].indexOf(name);
  a.op({ mandatory: PREFIX.REP, map: 1, opcode: 0xae, w: true, reg, rm: register });
}

function fxsave(a: Assembler, mem: Mem): void {
  a.op({ map: 1, opcode: 0xae, w: true, reg: 0, rm: mem });
}

function fxrstor(a: Assembler, mem: Mem): void {
  a.op({ map: 1, opcode: 0xae, w: true, reg: 1, rm: mem });
}
