// One run of the bench guest on softvt without compiled regions: node softvt-tier0.mjs KERNEL INITRD MEMORY_MIB COMMAND_LINE.
// The guest's serial console is stdout. From dist, as an embedder's program would.
import { readFileSync } from "node:fs";
import { createSoftvtEngine } from "@skep/softvt";
import { createVm } from "skep";

const [kernel, initrd, memoryMiB, commandLine] = process.argv.slice(2);
const machine = await createVm({
  kernel: readFileSync(kernel),
  initrd: readFileSync(initrd),
  commandLine,
  memoryMiB: Number(memoryMiB),
  engine: createSoftvtEngine({ compileAfter: Number.POSITIVE_INFINITY }),
});
machine.console.on("data", (bytes) => process.stdout.write(bytes));
const { kind } = await machine.run();
await machine.close();
process.exitCode = kind === "poweroff" ? 0 : 1;
