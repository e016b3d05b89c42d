import "./integer/index.ts";
import "./system/index.ts";
