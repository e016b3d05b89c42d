import { type Engine, ExitReason, type VmExit } from "@skep/vcpu";
import { FakeEngine } from "@skep/vcpu/testing";
import { createVm, joinArchives, type Machine, VmOptionsError } from "skep";
import { afterEach, describe, expect, it } from "vitest";

// A scripted vCPU in place of a guest: what it does at ports is what a kernel would do.
const COM1 = 0x3f8;
const LSR = 5;
const MCR = 4;
const LCR = 3;
const PM1A_CNT = 0x604;
const RESET_CONTROL = 0xcf9;

const out = (port: number, data: number, size: 1 | 2 | 4 = 1): { exit: VmExit } => ({
  exit: { reason: ExitReason.IoInstruction, port, size, direction: "out", data },
});
/** Eight data bits: the data sheet's reset value is five. */
const OPEN_PORT = out(COM1 + LCR, 0x03);
const print = (text: string): { exit: VmExit }[] => [
  OPEN_PORT,
  ...[...new TextEncoder().encode(text)].map((byte) => out(COM1, byte)),
];
/** SLP_EN with SLP_TYP 0, which the DSDT's \_S5 names (ACPI 6.5 sec. 4.8.3.2.1). */
const POWER_OFF = out(PM1A_CNT, 0x2000, 2);
const RESET = [out(RESET_CONTROL, 0x02), out(RESET_CONTROL, 0x06)];

/** The least that passes for a 64-bit kernel: a bzImage header of protocol 2.15 (boot.rst), and no code. */
function tinyKernel(): Uint8Array {
  const image = new Uint8Array(0x400 + 0x1000);
  const view = new DataView(image.buffer);
  image[0x1f1] = 1; // setup_sects
  view.setUint32(0x1f4, 0x100, true); // syssize, in 16 bytes
  view.setUint16(0x1fe, 0xaa55, true); // boot_flag
  image.set([0xeb, 0x6a], 0x200); // jump: the header ends at 0x26C
  view.setUint32(0x202, 0x5372_6448, true); // "HdrS"
  view.setUint16(0x206, 0x020f, true); // version
  image[0x211] = 0x01; // loadflags: LOADED_HIGH
  view.setUint32(0x214, 0x10_0000, true); // code32_start
  view.setUint32(0x22c, 0x7fff_ffff, true); // initrd_addr_max
  view.setUint32(0x230, 0x20_0000, true); // kernel_alignment
  image[0x234] = 1; // relocatable_kernel
  view.setUint16(0x236, 0x3, true); // xloadflags: KERNEL_64, above 4 GiB
  view.setUint32(0x238, 2047, true); // cmdline_size
  view.setBigUint64(0x258, 0x100_0000n, true); // pref_address
  view.setUint32(0x260, 0x10_0000, true); // init_size
  image.fill(0x90, 0x400);
  return image;
}

let machine: Machine | undefined;
afterEach(() => machine?.close());

async function make(...script: { exit: VmExit }[]): Promise<{ engine: FakeEngine; machine: Machine }> {
  const engine = new FakeEngine();
  machine = await createVm({
    kernel: tinyKernel(),
    engine,
    memoryMiB: 32,
    commandLine: "console=ttyS0 quiet",
  });
  engine.vcpus[0]!.play(...script);
  return { engine, machine };
}

describe("a machine", () => {
  it("takes a PCI configuration address for no reset, and has its host bridge", async () => {
    const SELECT = out(0xcf8, 0x8000_0600, 4); // the reset register's value in its byte, but a dword
    const { machine } = await make(SELECT, POWER_OFF);
    expect(await machine.run()).toEqual({ kind: "poweroff" });
    expect(machine.memory.readMmio(0xe000_0000, 4)).toBe(0x0008_1b36);
    expect(machine.vm.save().parts).toHaveProperty("pci.functions");
  });

  it("has the kernel and its command line in memory", async () => {
    const { memory } = (await make()).machine;
    expect([...memory.dump(0x100_0000, 4)]).toEqual([0x90, 0x90, 0x90, 0x90]);
    const zeroPage = 0x1_0000;
    const ranges = memory.ranges().map(({ name }) => name);
    expect(ranges).toEqual(expect.arrayContaining(["RAM", "I/O APIC", "HPET"]));
    const text = new TextDecoder().decode(memory.dump(0, zeroPage * 10));
    expect(text).toContain("console=ttyS0 quiet\0");
    expect(text).toContain("RSD PTR ");
  });

  it("prints on its console, and powers off by ACPI", async () => {
    const { machine } = await make(...print("hello\r\n"), POWER_OFF);
    let printed = "";
    machine.console.on("data", (bytes) => {
      printed += new TextDecoder().decode(bytes);
    });
    expect(await machine.run()).toEqual({ kind: "poweroff" });
    await Promise.resolve();
    expect(printed).toBe("hello\r\n");
    expect(machine.console.tail(5)).toEqual(["hello"]);
  });

  it("gets what is typed once the guest has opened the port", async () => {
    const { machine } = await make(OPEN_PORT, out(COM1 + MCR, 0x0b), POWER_OFF);
    machine.console.write("x");
    expect(machine.memory.ports.read(COM1 + LSR, 1) & 1).toBe(0);
    await machine.run();
    expect(machine.memory.ports.read(COM1 + LSR, 1) & 1).toBe(1);
    expect(machine.memory.ports.read(COM1, 1)).toBe(0x78);
  });

  it("reboots with its memory loaded anew", async () => {
    const { machine, engine } = await make(...RESET);
    machine.memory.load(0x100_0000, Uint8Array.of(1, 2, 3, 4));
    expect(await machine.run()).toEqual({ kind: "reset" });
    machine.reboot();
    expect([...machine.memory.dump(0x100_0000, 4)]).toEqual([0x90, 0x90, 0x90, 0x90]);
    engine.vcpus[0]!.play(POWER_OFF);
    expect(await machine.run()).toEqual({ kind: "poweroff" });
  });

  it("takes a panic that ends in a reset for a crash, with the console's last lines", async () => {
    const { machine } = await make(
      ...print("[    1.0] Kernel panic - not syncing: no init\r\n[    1.1] the end\r\n"),
      ...RESET,
    );
    const outcome = await machine.run();
    expect(outcome).toMatchObject({ kind: "crash", error: { code: "GUEST_PANIC" } });
    expect(String(outcome.kind === "crash" && outcome.error)).toMatch(
      /not syncing: no init\nlast lines.*\n.*\n {2}\[ {4}1\.1\] the end$/,
    );
  });

  it("does not take an old panic in the log for one that just happened", async () => {
    const log = Array.from({ length: 30 }, (_, line) => `line ${line}\r\n`).join("");
    const { machine } = await make(...print(`Kernel panic - not syncing: in a file\r\n${log}`), ...RESET);
    expect(await machine.run()).toEqual({ kind: "reset" });
  });

  it("puts the console's last lines into a crash's message", async () => {
    const { machine } = await make(...print("last words"), { exit: { reason: ExitReason.TripleFault } });
    const outcome = await machine.run();
    expect(outcome).toMatchObject({ kind: "crash", error: { code: "TRIPLE_FAULT" } });
    expect(String(outcome.kind === "crash" && outcome.error.message)).toMatch(/\n {2}last words$/);
  });

  it("is restored from what it saved, memory and devices", async () => {
    const first = await make(out(COM1 + 7, 0x5a), POWER_OFF);
    await first.machine.run();
    first.machine.memory.load(0x40_0000, Uint8Array.of(9, 8, 7));
    const state = structuredClone(first.machine.save());
    await first.machine.close();
    const second = await make();
    second.machine.restore(state);
    expect([...second.machine.memory.dump(0x40_0000, 4)]).toEqual([9, 8, 7, 0]);
    expect(second.machine.memory.ports.read(COM1 + 7, 1)).toBe(0x5a);
  });

  it("refuses a state that is not one", async () => {
    const { machine } = await make();
    const state = machine.save();
    expect(() => machine.restore({ ...state, kind: "vm" })).toThrow(/kind/);
    expect(() => machine.restore({ ...state, pages: 1 })).toThrow(/pages/);
    expect(() => machine.restore(undefined)).toThrow();
  });
});

describe("createVm refuses", () => {
  const kernel = tinyKernel();
  it.each([
    [{ memoryMiB: 8 }, "memoryMiB: expected a whole number from 16 to 3584, got 8"],
    [{ memoryMiB: 4096 }, "memoryMiB: expected a whole number from 16 to 3584, got 4096"],
    [{ memoryMiB: 100.5 }, "memoryMiB: expected a whole number from 16 to 3584, got 100.5"],
    [{ cpus: 2 }, "cpus: expected a whole number from 1 to 1, got 2"],
    [{ cpus: 0 }, "cpus: expected a whole number from 1 to 1, got 0"],
  ])("%j", async (options, message) => {
    const made = createVm({ kernel, engine: new FakeEngine(), ...options });
    await expect(made).rejects.toThrow(new VmOptionsError(...split(message)));
  });

  it("a file that is no kernel", async () => {
    const made = createVm({ kernel: new Uint8Array(2000), engine: new FakeEngine() });
    await expect(made).rejects.toMatchObject({ name: "BootError", code: "not-a-kernel" });
  });
});

function split(message: string): [field: string, expected: string, actual: string] {
  const [, field, expected, actual] = /^(\w+): expected (.*), got (.*)$/.exec(message)!;
  return [field!, expected!, actual!];
}

it("joins archives so that the second begins at a multiple of four", () => {
  expect([...joinArchives(Uint8Array.of(1), Uint8Array.of(2))]).toEqual([1, 0, 0, 0, 2]);
});

describe("engines by name", () => {
  it("kvm: its own interrupt controllers, TSC and processor; saved and restored", async (test) => {
    const { usable, evidence, isAbsent } = await (await loadKvm()).probe();
    if (!usable && !evidence.includes("this KVM emulates")) test.skip(evidence);
    expect(isAbsent).not.toBe(true);
    const notices: string[] = [];
    machine = await createVm({
      kernel: tinyKernel(),
      engine: "kvm",
      memoryMiB: 32,
      cpus: 2,
      onNotice: (notice) => notices.push(notice),
    });
    // The figure is another one in each probe.
    expect(notices.map((notice) => notice.replace(/runs .*? instructions/, ""))).toEqual(
      usable ? [] : [evidence.replace(/runs .*? instructions/, "")],
    );
    expect(machine.engine.name).toBe("kvm");
    // The kernel's chips answer there; nothing of ours may.
    expect(machine.memory.ports.overlapping(0x20, 2)).toBeUndefined();
    expect(machine.memory.overlapping(0xfec0_0000, 0x1000)).toBeUndefined();
    expect(machine.vm.clock.tscHz).toBe(machine.engine.tscHz);
    expect(machine.vm.cpuid.model.name).toBe("host");
    const state = machine.save();
    expect(state.vm.vcpus.map(({ activity }) => activity)).toEqual(["active", "wait-for-sipi"]);
    machine.restore(structuredClone(state));
    expect(machine.save().vm.vcpus).toEqual(state.vm.vcpus);
    machine.reboot();
    expect(machine.save().vm.vcpus[0]!.rip).toBe(state.vm.vcpus[0]!.rip);
  });

  it("auto: what runs guests at speed, and one line about a KVM that is there and does not", async () => {
    const { usable, evidence, isAbsent } = await (await loadKvm()).probe();
    const notices: string[] = [];
    machine = await createVm({
      kernel: tinyKernel(),
      memoryMiB: 32,
      onNotice: (notice) => notices.push(notice),
    });
    expect(machine.engine.name).toBe(usable ? "kvm" : "softvt");
    expect(notices).toHaveLength(usable || isAbsent ? 0 : 1);
    if (!usable && !isAbsent) expect(notices[0]).toContain(evidence.slice(0, evidence.indexOf("runs")));
  });

  it("auto with instruction-counted time is softvt, without a word", async () => {
    const notices: string[] = [];
    machine = await createVm({
      kernel: tinyKernel(),
      memoryMiB: 32,
      clock: "instructions",
      onNotice: (notice) => notices.push(notice),
    });
    expect([machine.engine.name, notices]).toEqual(["softvt", []]);
  });
});

async function loadKvm(): Promise<Engine> {
  const { createKvmEngine } = await import("@skep/vcpu/kvm");
  return createKvmEngine();
}
