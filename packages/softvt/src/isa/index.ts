import "./integer/index.ts";
import "./sse/index.ts";
