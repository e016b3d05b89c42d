export { EngineMismatchError } from "./engine/sections.ts";
export { createSoftvtEngine, type SoftvtOptions } from "./engine/softvt.ts";
