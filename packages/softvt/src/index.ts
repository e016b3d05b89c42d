export { createSoftvtEngine, type SoftvtOptions } from "./engine/softvt.ts";
