import "./integer/index.ts";
import "./sse/index.ts";
import "./sse-float/index.ts";
import "./avx/index.ts";
import "./system/index.ts";
import "./x87/index.ts";
