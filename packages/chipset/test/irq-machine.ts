import type { Clock, ClockTimer, LocalApicPort, VcpuSignals } from "@skep/vcpu";
import { IrqChip, type IrqChipOptions } from "../src/index.ts";

/** A clock that moves only when told, firing timers in order of deadline. */
export class TestClock implements Clock {
  readonly tscHz: number;
  #now = 0;
  readonly #timers: { deadline: number | undefined; fire: (deadline: number) => void }[] = [];
  /** Timer callbacks that have run. */
  fired = 0;

  constructor(tscHz = 1e9) {
    this.tscHz = tscHz;
  }

  now(): number {
    return this.#now;
  }

  wallTimeMs(): number {
    return this.#now / 1e6;
  }

  timer(callback: (deadlineNs: number) => void): ClockTimer {
    const entry = { deadline: undefined as number | undefined, fire: callback };
    this.#timers.push(entry);
    return {
      get deadline() {
        return entry.deadline;
      },
      arm: (deadlineNs) => {
        if (!Number.isFinite(deadlineNs)) throw new Error(`armed for ${deadlineNs}`);
        entry.deadline = deadlineNs;
      },
      cancel: () => {
        entry.deadline = undefined;
      },
    };
  }

  /** The next deadline, or undefined. */
  get next(): number | undefined {
    const armed = this.#timers.flatMap(({ deadline }) => (deadline === undefined ? [] : [deadline]));
    return armed.length === 0 ? undefined : Math.min(...armed);
  }

  advance(ns: number): void {
    const end = this.#now + ns;
    for (let next = this.next; next !== undefined && next <= end; next = this.next) {
      this.#now = Math.max(this.#now, next);
      const due = this.#timers.find(({ deadline }) => deadline === next)!;
      due.deadline = undefined;
      this.fired++;
      due.fire(next);
    }
    this.#now = end;
  }

  /** Time passes without the VM's thread looking at its timers. */
  skip(ns: number): void {
    this.#now += ns;
  }
}

/** Interrupt controllers with a clock and a log of what reached the vCPUs. */
export interface Machine {
  clock: TestClock;
  chip: IrqChip;
  /** "nmi 1", "init 0", "startup 1 0x9a"; wakes are in `wakes`. */
  log: string[];
  wakes: number[];
  apic(index: number): LocalApicPort;
  /** xAPIC register of vCPU `index`. */
  rd(index: number, register: number): number;
  wr(index: number, register: number, value: number): void;
  /** I/O APIC register behind the window. */
  ioRead(register: number): number;
  ioWrite(register: number, value: number): void;
  /** Programs redirection entry `pin`. */
  route(pin: number, low: number, high?: number): void;
  /** Takes every interrupt that vCPU `index` would take, with EOI, and gives the vectors in order. */
  drain(index: number): number[];
}

export function machine(options: Partial<IrqChipOptions> = {}, tscHz = 1e9): Machine {
  const clock = new TestClock(tscHz);
  const chip = new IrqChip(clock, { vcpus: 2, ...options });
  const log: string[] = [];
  const wakes: number[] = [];
  const signals: VcpuSignals = {
    wake: (index) => wakes.push(index),
    nmi: (index) => log.push(`nmi ${index}`),
    init: (index) => log.push(`init ${index}`),
    startup: (index, vector) => log.push(`startup ${index} 0x${vector.toString(16)}`),
  };
  chip.connect(signals);
  const ioWrite = (register: number, value: number): void => {
    chip.ioapic.write(0x00, 4, register);
    chip.ioapic.write(0x10, 4, value);
  };
  return {
    clock,
    chip,
    log,
    wakes,
    apic: (index) => chip.localApic(index),
    rd: (index, register) => chip.localApic(index).read(register, 4),
    wr: (index, register, value) => chip.localApic(index).write(register, 4, value),
    ioRead: (register) => {
      chip.ioapic.write(0x00, 4, register);
      return chip.ioapic.read(0x10, 4);
    },
    ioWrite,
    route: (pin, low, high = 0) => {
      ioWrite(0x11 + pin * 2, high);
      ioWrite(0x10 + pin * 2, low);
    },
    drain: (index) => {
      const taken: number[] = [];
      for (let vector = chip.acknowledge(index); vector >= 0; vector = chip.acknowledge(index)) {
        taken.push(vector);
        chip.localApic(index).write(0xb0, 4, 0);
        if (taken.length > 1000) throw new Error("interrupt storm");
      }
      return taken;
    },
  };
}

/** Software-enables the xAPIC of `cpus`, spurious vector 0xFF (SVR = 0x1FF). */
export function enable(m: Machine, ...cpus: number[]): void {
  for (const cpu of cpus) m.wr(cpu, 0xf0, 0x1ff);
}

/** Enters x2APIC mode by IA32_APIC_BASE. */
export function enterX2apic(m: Machine, ...cpus: number[]): void {
  for (const cpu of cpus) {
    const base = m.apic(cpu).readMsr(0x1b)!;
    if (!m.apic(cpu).writeMsr(0x1b, base | 0x400n)) throw new Error("x2APIC mode refused");
    m.apic(cpu).writeMsr(0x80f, 0x1ffn);
  }
}
