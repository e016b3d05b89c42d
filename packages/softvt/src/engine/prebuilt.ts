/**
 * The module's bytes as the package's build leaves them (build.mjs puts them in this file's place): compressed
 * by deflate (RFC 1951), as base64, so that they load without `fetch` and without a file system. `undefined`
 * where the sources themselves run: `loadEngine()` then generates the module.
 */
export const PREBUILT: string | undefined = undefined;
