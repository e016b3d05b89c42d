/** SSE to SSE4.1 floating point: importing this registers the instructions. */
import "./control.ts";
import "./arithmetic.ts";
import "./compare.ts";
import "./convert.ts";
