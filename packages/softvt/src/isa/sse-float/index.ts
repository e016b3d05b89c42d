/**
 * SSE to SSE4.1 floating point (SDM Vol. 1 ch. 10 to 12): importing this registers the instructions.
 *
 * Each has a native way, taken where it can note no more than the PE that is set already, and an exact one
 * (fpu/) for everything else: rounding modes, DAZ, FTZ, NaNs, denormals, unmasked exceptions. RCP and RSQRT give
 * digits of their own within the promised error. CVTPI2PS and CVTPI2PD enter MMX state only with a register
 * operand.
 */
import "./control.ts";
import "./arithmetic.ts";
import "./compare.ts";
import "./convert.ts";
import "./horizontal.ts";
import "./round.ts";
import "./reciprocal.ts";
