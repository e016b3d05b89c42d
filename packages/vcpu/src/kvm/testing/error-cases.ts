import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AddressSpace, RamArena } from "@skep/memory";
import { RealClock } from "../../clocks.ts";
import { CpuidModel } from "../../cpuid.ts";
import type { Engine, EngineVmOptions } from "../../engine.ts";
import { ConformanceError, expectEqual } from "../../testing/conformance/guest.ts";
import { hex } from "../../testing/conformance/layout.ts";
import { Vm } from "../../vm.ts";
import type { KvmError, KvmExitError } from "../errors.ts";
import { KvmHost } from "../host.ts";
import type { KvmThreads } from "../threads.ts";
import type { KvmVm } from "../vm.ts";
import { type KvmCase, SkipCase } from "./case.ts";
import { COUNTER_GUEST } from "./guests.ts";
import { withMachine } from "./machine.ts";

/** The error that `body` ends with; its class's name and its message have to fit. */
async function refusal<E extends Error>(name: string, message: RegExp, body: () => unknown): Promise<E> {
  let error: unknown;
  try {
    await body();
  } catch (caught) {
    error = caught;
  }
  if (!(error instanceof Error)) throw new ConformanceError(`expected a ${name}, nothing was thrown`);
  expectEqual("error", error.name, name);
  if (!message.test(error.message)) {
    throw new ConformanceError(`expected a message like ${message}, got "${error.message}"`);
  }
  return error as E;
}

function smallVm(engine: Engine, change: Partial<EngineVmOptions> = {}): EngineVmOptions {
  const memory = new AddressSpace(RamArena.create({ ramBytes: 0x10_0000 }));
  memory.addRam(0, 0x10_0000);
  const tscHz = engine.tscHz!;
  const cpuid = new CpuidModel(engine.supportedCpuid, { model: "host", vcpus: 1, tscHz });
  return { memory, vcpus: 1, tscHz, cpuid, ...change };
}

/** Open descriptors and mappings of this process, and what it has in memory. */
function holdings(): { descriptors: number; mappings: number; residentBytes: number } {
  const resident = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync("/proc/self/status", "utf8"));
  return {
    descriptors: readdirSync("/proc/self/fd").length,
    mappings: readFileSync("/proc/self/maps", "utf8").split("\n").length,
    residentBytes: Number(resident?.[1] ?? 0) * 1024,
  };
}

const MIB = 2 ** 20;
const VMS = 1000;

/** Bad hosts, bad requests, guests beyond KVM, and nothing left behind. */
export const errorCases: readonly KvmCase[] = [
  {
    name: "no device: what was tried and what to do",
    run: async ({ engine }) => {
      const none = engine({ device: "/nonexistent/kvm" });
      await refusal(
        "EngineUnavailableError",
        /there is no \/nonexistent\/kvm: virtualization is off/,
        () => none.maxVcpus,
      );
      const probe = await none.probe();
      expectEqual("probe", [probe.usable, probe.isAbsent], [false, true]);
    },
  },
  {
    name: "a device that is not KVM's",
    run: async ({ engine }) => {
      const other = engine({ device: "/dev/null" });
      await refusal("EngineUnavailableError", /\/dev\/null is not KVM's/, () => other.supportedCpuid);
      expectEqual("usable", (await other.probe()).usable, false);
    },
  },
  {
    name: "no permission: which group to join",
    run: async ({ engine }) => {
      if (process.getuid?.() === 0) throw new SkipCase("root may open everything");
      const directory = mkdtempSync(join(tmpdir(), "skep-kvm-"));
      try {
        const path = join(directory, "kvm");
        writeFileSync(path, "");
        chmodSync(path, 0o060);
        await refusal(
          "EngineUnavailableError",
          /join its group, \S+ \(usermod/,
          () => engine({ device: path }).maxVcpus,
        );
      } finally {
        rmSync(directory, { recursive: true });
      }
    },
  },
  {
    name: "a capability that is missing is named",
    run: async () => {
      const host = KvmHost.open();
      try {
        const missing = (["KVM_CAP_TSC_CONTROL", "KVM_CAP_DIRTY_LOG_RING"] as const).find(
          (name) => host.capabilities[name] <= 0,
        );
        if (missing === undefined) throw new SkipCase("this host's KVM has all that could be missing");
        const lacks = new RegExp(`lacks ${missing}: use Linux`);
        await refusal("EngineUnavailableError", lacks, () => host.require(["KVM_CAP_IRQCHIP", missing]));
      } finally {
        host.close();
      }
    },
  },
  {
    name: "more vCPUs than KVM_CAP_MAX_VCPUS",
    run: async ({ engine }) => {
      const kvm = engine();
      const options = smallVm(kvm, { vcpus: kvm.maxVcpus + 1 });
      await refusal("EngineUnsuitableError", /KVM_CAP_MAX_VCPUS/, () => kvm.createVm(options));
    },
  },
  {
    name: "a TSC that the processor cannot scale to",
    run: async ({ engine }) => {
      const host = KvmHost.open();
      const canScale = host.capabilities.KVM_CAP_TSC_CONTROL > 0;
      host.close();
      if (canScale) throw new SkipCase("this host's processor scales guests' TSCs");
      const kvm = engine();
      const vm = await kvm.createVm(smallVm(kvm, { tscHz: Math.round(kvm.tscHz! / 2) }));
      await refusal("EngineUnsuitableError", /tscHz: .* cannot scale/, () => vm.createVcpu(0));
      await vm.close();
    },
  },
  {
    name: "memory slots that overlap, are not aligned, or are refused by the kernel",
    run: ({ engine }) =>
      withMachine(engine(), {}, async (m) => {
        const { slots } = m.kvm;
        const slot = { gpa: 0x10_0000_0000, bytes: 0x1000, host: 0x1000n, readOnly: false, name: "mine" };
        const refuse = (change: Partial<typeof slot>, message: RegExp) =>
          refusal<KvmError>("KvmError", message, () => slots.add({ ...slot, ...change }));
        await refuse({ gpa: 0x1000 }, /"mine" at 0x1000\.\.0x2000 .* overlaps slot "RAM"/);
        await refuse({ gpa: 0x10_0000_0800 }, /multiples of 0x1000/);
        await refuse({ host: 0x1001n }, /multiples of 0x1000/);
        await refuse({ bytes: 0 }, /whole pages/);
        const refused = await refuse(
          { host: 0xffff_8000_0000_0000n },
          /KVM_SET_USER_MEMORY_REGION failed with E\w+/,
        );
        expectEqual("call", refused.call, "KVM_SET_USER_MEMORY_REGION");
        expectEqual("errno is told", refused.errno > 0, true);
        await refusal("KvmError", /no memory slot begins at 0x5000/, () => slots.remove(0x5000));
      }),
  },
  {
    name: "an interrupt controller is one VM's",
    run: ({ engine }) =>
      withMachine(engine(), {}, async (m) => {
        const kvm = engine();
        const options = smallVm(kvm, { interrupts: m.irqchip });
        await refusal("RangeError", /belongs to another VM/, () => kvm.createVm(options));
        // The refused one left its owner's alone.
        m.start("real", Uint8Array.of(0xe6, 0xf4));
        expectEqual("outcome", (await m.run()).kind, "poweroff");
      }),
  },
  {
    name: "an instruction that KVM cannot emulate: suberror, place and bytes",
    run: ({ engine }) =>
      withMachine(engine(), {}, async (m) => {
        m.start(
          "protected",
          hex`
          ; bits 32, at 0x8000
          90                ; nop
          dd 05 00 00 00 d0 ; fld qword ptr [0xd0000000]
          f4                ; hlt
        `,
        );
        const error = await refusal<KvmExitError>("KvmExitError", /KVM_EXIT_INTERNAL_ERROR, suberror 1/, () =>
          m.run(),
        );
        expectEqual("code", error.code, "KVM_INTERNAL_ERROR");
        expectEqual("suberror, RIP", [error.suberror, error.rip], [1n, 0x8001n]);
        expectEqual("instruction", [...error.instruction.subarray(0, 6)], [0xdd, 0x05, 0, 0, 0, 0xd0]);
        expectEqual("state", m.vm.state, "stopped");
      }),
  },
  {
    name: "an instruction fetch where there is no memory ends the guest, not the program",
    run: ({ engine }) =>
      withMachine(engine(), {}, async (m) => {
        // mov eax, 0xe0000000; jmp eax
        m.start("protected", Uint8Array.of(0xb8, 0, 0, 0, 0xe0, 0xff, 0xe0));
        const outcome = await m.run();
        expectEqual("outcome", outcome.kind === "crash" && outcome.error.code, "EXECUTE_UNMAPPED");
      }),
  },
  {
    name: "a triple fault ends the guest",
    run: ({ engine }) =>
      withMachine(engine(), {}, async (m) => {
        m.start("protected", Uint8Array.of(0x0f, 0x0b));
        m.memory.load(0x2000, new Uint8Array(0x800));
        const outcome = await m.run();
        expectEqual("outcome", outcome.kind === "crash" && outcome.error.code, "TRIPLE_FAULT");
      }),
  },
  {
    name: "a vCPU's thread that dies ends the run",
    run: ({ engine }) =>
      withMachine(engine({ vcpuThreads: "always" }), {}, async (m) => {
        const threads = m.kvm.threads as KvmThreads;
        m.start("real", COUNTER_GUEST);
        const failed = refusal("KvmThreadError", /the thread of vCPU 0 is gone/, () => m.run());
        await m.changed(0x3000, 0);
        const ended = threads.workers[0]!.terminate();
        // A thread inside the guest hears of its end once it comes out.
        threads.kick(0);
        await ended;
        await failed;
        expectEqual("state", m.vm.state, "stopped");
      }),
  },
  {
    name: "a closed VM is closed",
    run: async ({ engine }) => {
      const kvm = engine();
      const vm = await kvm.createVm(smallVm(kvm));
      const vcpu = vm.createVcpu(0);
      await vm.close();
      await vm.close();
      await refusal("VmStateError", /vCPU 0/, () => vcpu.save());
    },
  },
  {
    name: `${VMS} VMs made and broken leave no descriptor, no mapping and no memory`,
    run: async ({ engine }) => {
      const kvm = engine();
      const { memory, cpuid, tscHz } = smallVm(kvm);
      memory.load(0x8000, COUNTER_GUEST);
      const make = async (round: number): Promise<void> => {
        const isThreaded = round % 4 === 0;
        const interrupts = isThreaded ? kvm.createIrqChip!({ vcpus: 1 }) : undefined;
        const vm = (await kvm.createVm({
          memory,
          vcpus: 1,
          tscHz,
          cpuid,
          ...(interrupts && { interrupts }),
        })) as KvmVm;
        const vcpu = vm.createVcpu(0);
        vm.addHostMemory(0x1_0000_0000, MIB, "more");
        if (isThreaded && round % 8 === 0) {
          vm.addDoorbell({ space: "port", address: 0x500, bytes: 2 }, () => {});
          vm.threads!.start(0, 0n);
          vm.threads!.enter(0);
        } else if (!isThreaded) {
          vcpu.run({ budget: 1, tsc: 0n, tscPerInstruction: 1, interruptWindow: false, singleStep: false });
        }
        await vm.close();
      };
      for (let round = 0; round < 100; round++) await make(round);
      const before = holdings();
      for (let round = 0; round < VMS; round++) await make(round);
      const after = holdings();
      expectEqual("descriptors", after.descriptors - before.descriptors <= 0, true);
      // JavaScript's heap and the threads' stacks come and go in the collector's own time.
      expectEqual(
        `mappings (${before.mappings}, ${after.mappings})`,
        after.mappings - before.mappings < 100,
        true,
      );
      const grown = (after.residentBytes - before.residentBytes) / MIB;
      expectEqual(`memory grown by ${grown.toFixed(0)} MiB`, grown < 100, true);
    },
  },
  {
    name: "a VM that could not be made leaves nothing",
    run: async ({ engine }) => {
      const kvm = engine();
      const { memory } = smallVm(kvm);
      const before = holdings().descriptors;
      for (let round = 0; round < 20; round++) {
        await refusal("EngineUnsuitableError", /tscHz|clock/, () =>
          Vm.create({
            engine: kvm,
            memory,
            clock: new RealClock({ tscHz: 1_000_000 }),
            interrupts: kvm.createIrqChip!({ vcpus: 1 }),
          }),
        ).catch((error) => {
          // A processor that scales takes any frequency.
          if (!(error instanceof ConformanceError) || !/nothing was thrown/.test(error.message)) throw error;
          throw new SkipCase("this host's processor scales guests' TSCs");
        });
      }
      expectEqual("descriptors", holdings().descriptors, before);
    },
  },
];
