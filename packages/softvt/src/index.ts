export { createSoftvtEngine } from "./engine/softvt.ts";
