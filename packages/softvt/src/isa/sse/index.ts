/** The integer vector instructions: importing this declares them. */
import "./moves.ts";
import "./mmx.ts";
import "./bitwise.ts";
import "./arithmetic.ts";
import "./multiply.ts";
import "./shift.ts";
import "./shuffle.ts";
import "./element.ts";
import "./blend.ts";
import "./maskmov.ts";
import "./string.ts";
import "./crc32.ts";
import "./clmul.ts";
import "./aes.ts";
