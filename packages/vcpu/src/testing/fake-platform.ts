import type { AccessSize } from "@skep/memory";
import type { ExitBuses } from "../exit-dispatch.ts";
import type { InterruptController, LocalApicPort, VcpuSignals } from "../irq.ts";
import type { Scheduler } from "../scheduler.ts";

/** An access that reached a `RecordingBuses`. */
export interface RecordedAccess {
  readonly bus: "port" | "memory";
  readonly direction: "read" | "write";
  readonly address: number;
  readonly size: AccessSize | 8;
  readonly value: number;
  readonly high: number;
}

/** Port and memory buses that record every access and answer reads with what the test set. */
export class RecordingBuses implements ExitBuses {
  readonly accesses: RecordedAccess[] = [];
  /** Answers reads; gets port or guest-physical address. Default: all ones. */
  onRead: (address: number, size: AccessSize | 8) => number = () => 0xffff_ffff;
  /** Called after a write was recorded. */
  onWrite: (access: RecordedAccess) => void = () => {};
  lastHigh = 0;

  readonly ports = {
    read: (port: number, size: AccessSize): number => this.#read("port", port, size),
    write: (port: number, size: AccessSize, value: number): void => this.#write("port", port, size, value, 0),
  };

  readMmio(address: number, size: AccessSize | 8): number {
    return this.#read("memory", address, size);
  }

  writeMmio(address: number, size: AccessSize | 8, value: number, high = 0): void {
    this.#write("memory", address, size, value, high);
  }

  #read(bus: "port" | "memory", address: number, size: AccessSize | 8): number {
    const value = this.onRead(address, size);
    this.accesses.push({ bus, direction: "read", address, size, value, high: this.lastHigh });
    return value;
  }

  #write(bus: "port" | "memory", address: number, size: AccessSize | 8, value: number, high: number): void {
    const access = { bus, direction: "write", address, size, value, high } as const;
    this.accesses.push(access);
    this.onWrite(access);
  }
}

/** A local APIC that stores what it is told. */
export class FakeLocalApic implements LocalApicPort {
  mmioBase: number | undefined = 0xfee0_0000;
  tpr = 0;
  readonly registers = new Map<number, number>();
  readonly msrs = new Map<number, bigint>([[0x1b, 0xfee0_0900n]]);

  read(offset: number, _size: AccessSize): number {
    return this.registers.get(offset) ?? 0;
  }

  write(offset: number, _size: AccessSize, value: number): void {
    this.registers.set(offset, value);
  }

  readMsr(index: number): bigint | undefined {
    return this.msrs.get(index);
  }

  writeMsr(index: number, value: bigint): boolean {
    if (!this.msrs.has(index)) return false;
    this.msrs.set(index, value);
    return true;
  }

  getTpr(): number {
    return this.tpr;
  }

  setTpr(value: number): void {
    this.tpr = value;
  }
}

/**
 * An interrupt controller without priorities: vectors are taken in the order in which they were raised. It
 * also stands for the other processors' interprocessor interrupts: `signals` sends NMI, INIT and SIPI.
 */
export class FakeInterrupts implements InterruptController {
  readonly apics: readonly FakeLocalApic[];
  signals: VcpuSignals | undefined;
  /** Vectors that were acknowledged, by vCPU. */
  readonly acknowledged: number[][];
  readonly #pending: number[][];

  constructor(vcpus: number) {
    this.apics = Array.from({ length: vcpus }, () => new FakeLocalApic());
    this.acknowledged = this.apics.map(() => []);
    this.#pending = this.apics.map(() => []);
  }

  /** Makes `vector` pending for vCPU `index` and wakes it. */
  raise(index: number, vector: number): void {
    this.#pending[index]!.push(vector);
    this.signals?.wake(index);
  }

  pending(index: number): number {
    return this.#pending[index]![0] ?? -1;
  }

  acknowledge(index: number): number {
    const vector = this.#pending[index]!.shift() ?? -1;
    if (vector >= 0) this.acknowledged[index]!.push(vector);
    return vector;
  }

  localApic(index: number): FakeLocalApic {
    return this.apics[index]!;
  }

  connect(signals: VcpuSignals): void {
    this.signals = signals;
  }
}

/** Host time that only the test moves: a sleep passes at once and moves it by as much as was slept. */
export class FakeScheduler implements Scheduler {
  /** Host time in ms. */
  ms = 0;
  yields = 0;
  /** Sleeps so far, in ns. */
  readonly sleeps: number[] = [];
  /** Called in every yield and sleep: where a test lets the outside world act. */
  onIdle: () => void = () => {};

  hostMs(): number {
    return this.ms;
  }

  async yield(): Promise<void> {
    this.yields++;
    this.onIdle();
    await Promise.resolve();
  }

  async sleep(ns: number, signal: AbortSignal): Promise<void> {
    this.sleeps.push(ns);
    this.onIdle();
    if (signal.aborted) return;
    if (!Number.isFinite(ns)) {
      await new Promise<void>((done) => signal.addEventListener("abort", () => done(), { once: true }));
      return;
    }
    this.ms += ns / 1_000_000;
    await Promise.resolve();
  }
}
