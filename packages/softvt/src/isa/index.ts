import "./integer/index.ts";
