// A process that takes over a machine where another one left it: resume.ts STATE KERNEL INITRD COMMAND_LINE.
// What the guest says on its second serial port from then on is stdout; the way it ended is the last line.
import { readFileSync } from "node:fs";
import { deserialize } from "node:v8";
import { createVm } from "skep";

const [state, kernel, initrd, commandLine] = process.argv.slice(2) as [string, string, string, string];
const machine = await createVm({
  kernel: readFileSync(kernel),
  initrd: readFileSync(initrd),
  commandLine,
  memoryMiB: 256,
});
machine.restore(deserialize(readFileSync(state)));
machine.channel.on("data", (bytes) => process.stdout.write(bytes));
const outcome = await machine.run();
process.stdout.write(`\noutcome ${outcome.kind}\n`);
await machine.close();
