import "./integer/index.ts";
import "./sse/index.ts";
import "./system/index.ts";
