import { generateEngine } from "./generate.ts";

/**
 * The bytes of the engine's WebAssembly module, generated from the descriptions: most of a second's work. The
 * package's build (build.mjs) puts a file in this one's place that holds them, and the descriptions stay out of
 * what is loaded.
 */
export async function engineBytes(): Promise<Uint8Array<ArrayBuffer>> {
  return generateEngine();
}
