/** Debian's kernel as a guest of skep, on KVM, to userland and back: what it computes is compared with this machine. */
import { readFile } from "node:fs/promises";
import { createVm, type Machine, runCommand } from "skep";
import { answers, QUESTIONS, QUESTIONS_EXIT_CODE } from "../../support/guest-questions.ts";
import type { RigCase } from "./case.ts";

const MEMORY_MIB = 256;
const LIMIT_SECONDS = 400;
/** As in initramfs.ts. */
const files = async (): Promise<{ kernel: Uint8Array; busybox: Uint8Array }> => ({
  kernel: await readFile("/rig/guest/vmlinuz"),
  busybox: await readFile("/bin/busybox"),
});

function expectEqual(what: string, actual: unknown, expected: unknown): void {
  if (actual === expected) return;
  throw new Error(`${what}: expected ${JSON.stringify(expected)}, got ${JSON.stringify(actual)}`);
}

const reachesUserland = (cpus: number): RigCase => ({
  name: `reaches userland on ${cpus} vCPU${cpus > 1 ? "s" : ""}, computes as the host does and powers off`,
  limitSeconds: LIMIT_SECONDS,
  run: async () => {
    let output = "";
    let engine = "";
    let machine: Machine | undefined;
    const decoder = new TextDecoder();
    try {
      const code = await runCommand({
        ...(await files()),
        command: QUESTIONS,
        memoryMiB: MEMORY_MIB,
        cpus,
        engine: "kvm",
        onOutput: (bytes) => {
          output += decoder.decode(bytes, { stream: true });
        },
        onMachine: (made) => {
          machine = made;
          engine = made.engine.name;
        },
      });
      expectEqual("output", output, answers({ machine: "x86_64", cpus }));
      expectEqual("exit code", code, QUESTIONS_EXIT_CODE);
      expectEqual("engine", engine, "kvm");
    } catch (error) {
      // The rig ends with the guest's words in its report.
      for (const line of machine?.console.tail(20) ?? []) process.stdout.write(`  guest: ${line}\n`);
      throw error;
    }
  },
});

export const cases: readonly RigCase[] = [
  reachesUserland(1),
  reachesUserland(2),
  {
    name: "a panic is a typed error that ends with the console's last lines",
    limitSeconds: LIMIT_SECONDS,
    run: async () => {
      const { kernel } = await files();
      const commandLine = "console=ttyS0 quiet panic=-1";
      const machine = await createVm({ kernel, commandLine, memoryMiB: MEMORY_MIB, engine: "kvm" });
      try {
        const outcome = await machine.run();
        if (outcome.kind !== "crash") throw new Error(`outcome: expected "crash", got "${outcome.kind}"`);
        expectEqual("code", outcome.error.code, "GUEST_PANIC");
        if (!/Kernel panic - not syncing: VFS: Unable to mount root fs/.test(outcome.error.message)) {
          throw new Error(`message: expected the panic's words, got ${outcome.error.message}`);
        }
      } finally {
        await machine.close();
      }
    },
  },
];
