export { EngineMismatchError } from "./engine/sections.ts";
export { createSoftvtEngine } from "./engine/softvt.ts";
