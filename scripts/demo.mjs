// npm run demo: builds what is not built and hands over to `skep demo`, in this process so that the terminal,
// signals and the exit status are its own.
import { ensureBuilt } from "./ensure-built.mjs";

ensureBuilt();
process.argv.splice(2, 0, "demo");
await import("../packages/skep/dist/cli/index.js");
