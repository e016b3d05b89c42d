/**
 * AVX and AVX2 beyond the VEX forms of SSE (which are declared with these), FMA and F16C: importing this declares the
 * instructions (SDM Vol. 1 ch. 14, Vol. 2C).
 */
import "./state.ts";
import "./broadcast.ts";
import "./lanes.ts";
import "./permute.ts";
import "./shift.ts";
import "./masked.ts";
import "./gather.ts";
import "./fused.ts";
import "./half.ts";
