// Linux in a few lines: main.ts KERNEL INITRD. The console goes to stdout; one command is typed at the shell's prompt.
import { readFile } from "node:fs/promises";
import { createVm } from "skep";

const [kernelPath, initrdPath] = process.argv.slice(2);
if (!kernelPath || !initrdPath) {
  console.error("usage: main.ts KERNEL INITRD");
  process.exit(2);
}

await using machine = await createVm({
  kernel: await readFile(kernelPath),
  initrd: await readFile(initrdPath),
  commandLine: "console=ttyS0 quiet panic=-1",
  memoryMiB: 256,
});
machine.console.on("data", (bytes) => process.stdout.write(bytes));

const prompt = machine.console.waitFor("# ");
const outcome = machine.run();
// A guest that ends before its prompt has an outcome, too.
await Promise.race([prompt, outcome]);
machine.console.write("uname -srm; poweroff -f\n");

const { kind } = await outcome;
console.log(`\nthe guest's run ended: ${kind}`);
process.exitCode = kind === "poweroff" ? 0 : 1;
