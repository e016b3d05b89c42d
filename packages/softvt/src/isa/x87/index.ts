/**
 * The x87 FPU (SDM Vol. 1 ch. 8): importing this registers the instructions of opcodes D8 to DF, and WAIT.
 *
 * - Arithmetic is exact to the bit in 80 bits, with all rounding modes, precisions, flags and unmasked responses;
 *   the transcendental functions are rounded once from some 100 bits, with the 66-bit π of x87 processors.
 * - With CR0.NE clear a pending exception is ignored, as with IGNNE# asserted: FERR# and IRQ 13 are not modelled.
 * - FCS and FDS are 0; FDP and FOP change with unmasked exceptions only (CPUID.(EAX=7,ECX=0):EBX bits 13 and 6).
 *   In real mode, FIP and FDP are offsets within their segments where processors of old kept linear addresses.
 * - An environment or state image (FNSTENV, FNSAVE, FLDENV, FRSTOR) in MMIO space is refused by #GP(0).
 */
import "./arithmetic.ts";
import "./transfer.ts";
import "./compare.ts";
import "./control.ts";
import "./environment.ts";
import "./special.ts";
import "./transcendental.ts";
