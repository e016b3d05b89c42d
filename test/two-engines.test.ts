/**
 * A VM is saved on one engine and goes on on the other: short guests, on whatever KVM this host has. The rig has Linux
 * (test/rig/guest/two-engines.ts).
 */
import { IrqChip } from "@skep/chipset";
import { AddressSpace, RamArena } from "@skep/memory";
import { createSoftvtEngine } from "@skep/softvt";
import { type EngineIrqChip, RealClock, StateError, Vm, type VmOptions } from "@skep/vcpu";
import { createKvmEngine } from "@skep/vcpu/kvm";
import { type StartMode, startImage } from "@skep/vcpu/testing";
import { describe, expect, it, type TestContext } from "vitest";

const engines = { kvm: createKvmEngine(), softvt: createSoftvtEngine() };
type EngineName = keyof typeof engines;
const { usable, evidence } = await engines.kvm.probe();
const isHere = usable || evidence.includes("this KVM emulates");

const RAM_BYTES = 0x10_0000;
const CODE = 0x8000;
const HANDLER = 0xa000;
/** 32-bit interrupt gate: selector 8, offset 0xA000. */
const GATE = [0x00, 0xa0, 0x08, 0x00, 0x00, 0x8e, 0x00, 0x00];

const ENABLE_APIC = [0xc7, 0x05, 0xf0, 0x00, 0xe0, 0xfe, 0xff, 0x01, 0x00, 0x00]; // mov dword ptr [0xfee000f0], 0x1ff
const SAY_1 = [0xb0, 0x01, 0xe6, 0xe9]; // mov al, 1; out 0xe9, al
const SAY_2 = [0xb0, 0x02, 0xe6, 0xe9]; // mov al, 2; out 0xe9, al
const WAIT = [0xfb, 0xf4, 0xeb, 0xfd]; // sti; again: hlt; jmp again
const EOI = [0xc7, 0x05, 0xb0, 0x00, 0xe0, 0xfe, 0x00, 0x00, 0x00, 0x00]; // mov dword ptr [0xfee000b0], 0
const HANDLER_32 = [...SAY_2, ...EOI, ...WAIT];

/** A guest says 1, is saved, and goes on elsewhere: it says 2 for each interrupt. */
interface Guest {
  readonly mode: StartMode;
  readonly code: readonly number[];
  readonly image: readonly (readonly [address: number, bytes: readonly number[]])[];
  /** When it has said 1, before it is saved. */
  readonly before?: (machine: Machine) => void;
  /** Each time that it says 2, elsewhere; the third one's end is the machine's. */
  readonly onInterrupt?: (machine: Machine, count: number) => void;
  readonly interrupts: number;
  readonly readsTsc?: boolean;
}

const timerGuest = (lvt: number, start: readonly number[], interrupts = 1): Guest => ({
  mode: "protected",
  code: [
    ...ENABLE_APIC,
    ...[0xc7, 0x05, 0xe0, 0x03, 0xe0, 0xfe, 0x0b, 0x00, 0x00, 0x00], // mov dword ptr [0xfee003e0], 0xb
    ...[0xc7, 0x05, 0x20, 0x03, 0xe0, 0xfe, 0x45, 0x00, lvt, 0x00], // mov dword ptr [0xfee00320], lvt << 16 | 0x45
    ...start,
    ...SAY_1,
    ...WAIT,
  ],
  image: [
    [0x2000 + 8 * 0x45, GATE],
    [HANDLER, HANDLER_32],
  ],
  interrupts,
});
const START_COUNT = [0xc7, 0x05, 0x80, 0x03, 0xe0, 0xfe, 0x80, 0xc3, 0xc9, 0x01]; // mov dword ptr [0xfee00380], 30000000
const START_DEADLINE = [
  ...[0x0f, 0x31], // rdtsc
  ...[0x05, 0x00, 0xe1, 0xf5, 0x05], // add eax, 100000000
  ...[0x83, 0xd2, 0x00], // adc edx, 0
  ...[0xb9, 0xe0, 0x06, 0x00, 0x00], // mov ecx, 0x6e0
  ...[0x0f, 0x30], // wrmsr
];

const GUESTS: Readonly<Record<string, Guest>> = {
  "a one-shot timer": timerGuest(0, START_COUNT),
  "a periodic timer": timerGuest(2, START_COUNT, 3),
  "a TSC deadline": { ...timerGuest(4, START_DEADLINE), readsTsc: true },
  "a level-triggered line, asserted while it moved": {
    mode: "protected",
    code: [
      ...ENABLE_APIC,
      ...[0xc7, 0x05, 0x00, 0x00, 0xc0, 0xfe, 0x39, 0x00, 0x00, 0x00], // mov dword ptr [0xfec00000], 0x39
      ...[0xc7, 0x05, 0x10, 0x00, 0xc0, 0xfe, 0x00, 0x00, 0x00, 0x00], // mov dword ptr [0xfec00010], 0
      ...[0xc7, 0x05, 0x00, 0x00, 0xc0, 0xfe, 0x38, 0x00, 0x00, 0x00], // mov dword ptr [0xfec00000], 0x38
      ...[0xc7, 0x05, 0x10, 0x00, 0xc0, 0xfe, 0x45, 0x80, 0x00, 0x00], // mov dword ptr [0xfec00010], 0x8045
      ...SAY_1,
      ...WAIT,
    ],
    image: [
      [0x2000 + 8 * 0x45, GATE],
      [HANDLER, HANDLER_32],
    ],
    before: (machine) => machine.device.set(true),
    interrupts: 3,
  },
  "an edge that the 8259 has latched": {
    mode: "real",
    code: [
      0xfa, // cli
      ...[0xc7, 0x06, 0x90, 0x00, 0x00, 0xa0], // mov word ptr [0x90], 0xa000
      ...[0xc7, 0x06, 0x92, 0x00, 0x00, 0x00], // mov word ptr [0x92], 0
      ...[0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x20, 0xe6, 0x21], // ICW1, ICW2: vectors from 0x20
      ...[0xb0, 0x04, 0xe6, 0x21, 0xb0, 0x01, 0xe6, 0x21], // ICW3, ICW4
      ...[0xb0, 0xef, 0xe6, 0x21], // mov al, 0xef; out 0x21, al
      ...SAY_1,
      ...WAIT,
    ],
    image: [[HANDLER, [0xb0, 0x20, 0xe6, 0x20, ...SAY_2, 0xcf]]], // mov al, 0x20; out 0x20, al; …; iret
    before: (machine) => machine.device.set(true),
    // The line stays up: that is no second edge. Down and up again is.
    onInterrupt: ({ device }, count) => {
      if (count !== 1) return;
      device.set(false);
      device.set(true);
    },
    interrupts: 2,
  },
};

/** One vCPU, interrupt controllers, a debug port, and a device with a line: ISA IRQ 4 in real mode, else GSI 20. */
class Machine {
  readonly said: number[] = [];
  readonly device: { set(level: boolean): void };
  onSaid: (value: number) => void = () => {};

  static async create(name: EngineName, mode: StartMode, options: Partial<VmOptions> = {}): Promise<Machine> {
    const engine = engines[name];
    const memory = new AddressSpace(
      RamArena.create({ ramBytes: RAM_BYTES, privateBytes: engine.arenaBytes }),
    );
    memory.addRam(0, RAM_BYTES);
    const clock = new RealClock({ tscHz: engines.kvm.tscHz! });
    const interrupts = engine.createIrqChip?.({ vcpus: 1 }) ?? new IrqChip(clock, { vcpus: 1 });
    if (interrupts instanceof IrqChip) {
      memory.addMmio(0xfec0_0000, 0x1000, interrupts.ioapic, "I/O APIC");
      memory.ports.add(0x20, 2, interrupts.pic.master, "8259 master");
      memory.ports.add(0xa0, 2, interrupts.pic.slave, "8259 slave");
    }
    const within = Object.values(engines).map(({ supportedCpuid }) => supportedCpuid);
    const cpuid = { model: "x86-64-v2", within } as const;
    const vm = await Vm.create({ engine, memory, clock, interrupts, cpuid, ...options });
    return new Machine(vm, memory, interrupts, mode);
  }

  private constructor(
    readonly vm: Vm,
    readonly memory: AddressSpace,
    interrupts: EngineIrqChip,
    mode: StartMode,
  ) {
    const line = mode === "real" ? interrupts.isaLine(4) : interrupts.line(20);
    let isAsserted = false;
    this.device = {
      set: (level) => {
        isAsserted = level;
        line.set(level);
      },
    };
    vm.addPart("memory", memory);
    vm.addPart("irqchip", interrupts);
    vm.addPart("device", { save: () => isAsserted, restore: (state) => this.device.set(state === true) });
    const write = (_offset: number, _size: number, value: number): void => {
      this.said.push(value);
      this.onSaid(value);
    };
    memory.ports.add(0xe9, 1, { read: () => 0, write }, "debug port");
  }

  load({ mode, code, image }: Guest): void {
    const { state, memory } = startImage(mode);
    for (const [address, bytes] of memory) this.memory.load(address, bytes);
    for (const [address, bytes] of image) this.memory.load(address, Uint8Array.from(bytes));
    this.memory.load(CODE, Uint8Array.from(code));
    this.vm.vcpus[0]!.restore(state);
  }
}

/** Runs the guest until it has said 1, and gives its state and its RAM. */
async function begin(name: EngineName, guest: Guest): Promise<{ state: unknown; ram: Uint8Array }> {
  const machine = await Machine.create(name, guest.mode);
  machine.load(guest);
  const paused = new Promise<void>((done, fail) => {
    machine.onSaid = () => {
      guest.before?.(machine);
      machine.vm.pause().then(done, fail);
    };
  });
  const run = machine.vm.run();
  await paused;
  const state = structuredClone(machine.vm.save());
  const ram = machine.memory.dump(0, RAM_BYTES);
  await machine.vm.close();
  await run;
  return { state, ram };
}

async function goOn(
  name: EngineName,
  guest: Guest,
  saved: { state: unknown; ram: Uint8Array },
): Promise<void> {
  const machine = await Machine.create(name, guest.mode);
  const { vm, said } = machine;
  try {
    machine.memory.load(0, saved.ram);
    vm.restore(saved.state);
    machine.onSaid = () => {
      if (said.length === guest.interrupts) vm.powerOff();
      else guest.onInterrupt?.(machine, said.length);
    };
    const timer = setTimeout(() => void vm.stop(), 10_000);
    const outcome = await vm.run();
    clearTimeout(timer);
    expect(said).toEqual(Array.from({ length: guest.interrupts }, () => 2));
    expect(outcome).toEqual({ kind: "poweroff" });
  } finally {
    await vm.close();
  }
}

const skipUnlessHere = (context: TestContext): void => {
  if (!isHere) context.skip(evidence);
};

describe.each([
  ["softvt", "kvm"],
  ["kvm", "softvt"],
  ["softvt", "softvt"],
  ["kvm", "kvm"],
] as const)("saved on %s, gone on with on %s", (from, to) => {
  for (const [name, guest] of Object.entries(GUESTS)) {
    it(name, async (context) => {
      skipUnlessHere(context);
      if (from === "kvm" && to === "softvt" && !usable && guest.readsTsc) {
        context.skip("a KVM that emulates gives guests the host's TSC for their own");
      }
      await goOn(to, guest, await begin(from, guest));
    });
  }
});

describe("refused by name", () => {
  it("another CPUID: the registers and flags that differ", async (context) => {
    skipUnlessHere(context);
    const guest = GUESTS["a one-shot timer"]!;
    const saved = await begin("softvt", guest);
    const machine = await Machine.create("kvm", guest.mode, {
      cpuid: { model: "x86-64-v2", remove: ["cx16"] },
    });
    const restore = (): void => machine.vm.restore(saved.state);
    expect(restore).toThrow(StateError);
    expect(restore).toThrow(/cpuid\.leaves\[0x1\.0\]\.ecx: expected .*cx16/);
    await machine.vm.close();
  });

  it("another TSC frequency", async (context) => {
    skipUnlessHere(context);
    const guest = GUESTS["a one-shot timer"]!;
    const saved = await begin("kvm", guest);
    const machine = await Machine.create("softvt", guest.mode, { clock: new RealClock() });
    expect(() => machine.vm.restore(saved.state)).toThrow(StateError);
    await machine.vm.close();
  });
});
