/**
 * One VM, two engines: Debian's kernel begins on one and goes on on the other, to the end of what it was asked.
 *
 * ```text
 *   host      softvt: boots half way, saves -----+          +----> restores, boots to the end
 *   rig                                          v          |
 *             KVM:               restores, boots to the end | boots half way, saves
 * ```
 *
 * softvt runs on the host: inside, its code would be translated in its turn.
 */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { deserialize, serialize } from "node:v8";
import { gunzipSync, gzipSync } from "node:zlib";
import { busyboxInitramfs, ExecOutputParser, execCommandLine } from "@skep/boot";
import { createSoftvtEngine } from "@skep/softvt";
import { type CreateVmOptions, createVm, type Machine, type MachineStateV1 } from "skep";
import { measureTscHz } from "../host-tsc.ts";
import { sendToHost } from "../mail.ts";
import type { RigCase } from "./case.ts";

const MEMORY_MIB = 128;
const LIMIT_SECONDS = 400;
const NONCE = "0";
const NUMBERS = 2000;
const COMMAND = `seq 1 ${NUMBERS} | sha256sum; awk 'BEGIN { printf "%.12g\\n", 22 / 7 }'; grep -c ^processor /proc/cpuinfo; exit 5`;
const EXIT_CODE = 5;
/**
 * Of the model, what either engine has not: the host that softvt runs on cannot ask the rig's KVM beforehand. And XSAVE:
 * QEMU 7.2 does not intercept XSETBV, so that KVM learns nothing of the guest's XCR0 and sets it back at each entry.
 */
const NOT_COMMON = [
  "3dnowprefetch",
  "clflushopt",
  "clwb",
  "invpcid",
  "pcid",
  "rdseed",
  "ss",
  "xsave",
] as const;

/** Kernel and userland, wherever this runs. */
interface GuestFiles {
  readonly kernel: Uint8Array;
  readonly busybox: Uint8Array;
}

/** As in initramfs.ts. */
const filesInside = async (): Promise<GuestFiles> => ({
  kernel: await readFile("/rig/guest/vmlinuz"),
  busybox: await readFile("/bin/busybox"),
});

async function filesOnHost(): Promise<GuestFiles> {
  const { obtainDebianFile } = await import("skep/node");
  const file = async (name: "linux-image-cloud-amd64" | "busybox-static"): Promise<Uint8Array> =>
    readFile((await obtainDebianFile(name)).path);
  return { kernel: await file("linux-image-cloud-amd64"), busybox: await file("busybox-static") };
}

function machineOptions({ kernel, busybox }: GuestFiles, cpus: number): CreateVmOptions {
  return {
    kernel,
    initrd: busyboxInitramfs({ busybox, command: COMMAND }),
    commandLine: `console=ttyS0 panic=-1 cryptomgr.notests ${execCommandLine({ nonce: NONCE })}`,
    memoryMiB: MEMORY_MIB,
    cpus,
    cpuid: { model: "x86-64-v2", remove: NOT_COMMON, within: [createSoftvtEngine().supportedCpuid] },
  };
}

function expectEqual(what: string, actual: unknown, expected: unknown): void {
  if (actual === expected) return;
  throw new Error(`${what}: expected ${JSON.stringify(expected)}, got ${JSON.stringify(actual)}`);
}

/** Runs `action`, and prints the guest's last words where it fails. */
async function watched<T>(machine: Machine, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (error) {
    for (const line of machine.console.tail(20)) process.stdout.write(`  guest: ${line}\n`);
    throw error;
  } finally {
    await machine.close();
  }
}

/** Boots until the console says `marker`, and gives the machine's state, packed. */
async function boot(options: CreateVmOptions, marker: RegExp): Promise<Uint8Array> {
  const machine = await createVm(options);
  return watched(machine, async () => {
    let said = "";
    machine.channel.on("data", (bytes) => {
      said += new TextDecoder().decode(bytes);
    });
    const reached = machine.console.waitFor(marker).then(() => "reached");
    const end = await Promise.race([reached, machine.run().then(({ kind }) => kind)]);
    expectEqual("the boot", end, "reached");
    await machine.vm.pause();
    machine.channel.flush();
    expectEqual("said by the command before it began", said, "");
    return gzipSync(serialize(machine.save()), { level: 1 });
  });
}

/** Goes on with a machine until its guest powers off, and compares what that has said. */
async function goOn(options: CreateVmOptions, packed: Uint8Array): Promise<void> {
  const state = deserialize(gunzipSync(packed)) as MachineStateV1;
  const machine = await createVm({ ...options, tscHz: state.vm.clock.tscHz });
  await watched(machine, async () => {
    machine.restore(state);
    let output = "";
    const parser = new ExecOutputParser(NONCE, {
      output: (bytes) => {
        output += new TextDecoder().decode(bytes);
      },
    });
    machine.channel.on("data", (bytes) => parser.push(bytes));
    const outcome = await machine.run();
    machine.channel.flush();
    expectEqual("outcome", outcome.kind, "poweroff");
    expectEqual("output", output, answers(options.cpus ?? 1));
    expectEqual("exit code", parser.exitCode, EXIT_CODE);
  });
}

function answers(cpus: number): string {
  const numbers = Array.from({ length: NUMBERS }, (_, index) => `${index + 1}\n`).join("");
  const digest = createHash("sha256").update(numbers).digest("hex");
  return `${digest}  -\n3.14285714286\n${cpus}\n`;
}

const vcpus = (cpus: number): string => `${cpus} vCPU${cpus > 1 ? "s" : ""}`;

/** The host's, once it was measured. */
let tscHz: number | undefined;

function fromSoftvt(cpus: number): RigCase {
  const name = `softvt-${cpus}`;
  return {
    name: `a boot on ${vcpus(cpus)} that softvt began ends on KVM`,
    limitSeconds: LIMIT_SECONDS,
    before: {
      name,
      make: async () => {
        const options = machineOptions(await filesOnHost(), cpus);
        tscHz ??= await measureTscHz();
        return boot({ ...options, tscHz, engine: "softvt" }, /smpboot: Total of \d+ processors/);
      },
    },
    run: async () => {
      const options = machineOptions(await filesInside(), cpus);
      await goOn({ ...options, engine: "kvm" }, await readFile(`/rig/before/${name}`));
    },
  };
}

function fromKvm(cpus: number): RigCase {
  const name = `a boot on ${vcpus(cpus)} that KVM began ends on softvt`;
  return {
    name,
    limitSeconds: LIMIT_SECONDS,
    run: async () => {
      const options = machineOptions(await filesInside(), cpus);
      sendToHost(name, await boot({ ...options, engine: "kvm" }, /smpboot: Total of \d+ processors/));
    },
    after: async (sent) => {
      const options = machineOptions(await filesOnHost(), cpus);
      await goOn({ ...options, engine: "softvt" }, sent);
    },
  };
}

/** What KVM saves takes a minute to get out of the rig: once, with all that two vCPUs have. */
export const cases: readonly RigCase[] = [fromSoftvt(1), fromSoftvt(2), fromKvm(2)];
