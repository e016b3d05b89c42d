/** Registers every system instruction. */
import "./control.ts";
import "./debug.ts";
import "./far.ts";
import "./flags.ts";
import "./interrupts.ts";
import "./io.ts";
import "./misc.ts";
import "./segments.ts";
import "./syscall.ts";
import "./tables.ts";
import "./xsave.ts";
