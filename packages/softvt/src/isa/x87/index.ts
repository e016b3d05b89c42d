/** The x87 FPU: importing this registers the instructions of opcodes D8 to DF, and WAIT. */
import "./arithmetic.ts";
import "./transfer.ts";
import "./compare.ts";
import "./control.ts";
import "./environment.ts";
import "./special.ts";
import "./transcendental.ts";
