/** Cases that go wrong in every way that a rig has to report, for the test of that reporting. */
import type { RigCase } from "./case.ts";

export const cases: readonly RigCase[] = [
  { name: "passes", run: () => {} },
  {
    name: "throws",
    run: () => {
      throw new RangeError("expected this,\ngot that");
    },
  },
  { name: "is left out", skip: "it is not for this machine", run: () => {} },
  {
    name: "ends the process",
    run: () => {
      process.stdout.write("goodbye\n");
      process.exit(3);
    },
  },
  {
    name: "crashes the process",
    run: async () => {
      process.kill(process.pid, "SIGSEGV");
      await new Promise(() => setInterval(() => {}, 1000));
    },
  },
  {
    name: "blocks for ever",
    limitSeconds: 1,
    run: () => {
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
    },
  },
  { name: "waits for nothing", run: () => new Promise(() => {}) },
  { name: "passes after all that", run: async () => {} },
];
