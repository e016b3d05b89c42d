/**
 * A split interrupt controller (KVM_CAP_SPLIT_IRQCHIP): KVM's local APICs, and an I/O APIC of the embedder's, such as
 * `@skep/chipset`'s, whose messages go in here and whose ends of interrupt come out.
 *
 * KVM tells the end of a level-triggered interrupt only for vectors that its first 24 routes name, so each such message
 * gets a route before it is sent.
 *
 * @example
 * const apics = new KvmLocalApics({ vcpus: 1 });
 * const ioapic = new IoApic((message) => apics.deliver(message));
 * apics.onEndOfInterrupt = (vector) => ioapic.endOfInterrupt(vector);
 */
import type { InterruptController, LocalApicPort, MsiTarget, VcpuSignals } from "../irq.ts";
import { type LocalApicStateV1, parseLocalApicStates } from "../irqchip-state.ts";
import { StateReader } from "../state-reader.ts";
import { Capability } from "./abi.ts";
import { IOAPIC_PINS, IrqRoutes } from "./irq-routes.ts";
import { IN_KERNEL, type IrqChipHost, type KernelApics } from "./irqchip.ts";
import { LocalApicAccess } from "./lapic-access.ts";
import { Size, Struct } from "./structs.ts";

/** An interrupt message, as an I/O APIC sends it (`ApicMessage` of `@skep/chipset`). */
export interface InterruptMessage {
  /** APIC ID or logical destination, 8 bits. */
  readonly destination: number;
  readonly logical: boolean;
  /** Delivery mode, bits 10:8 of a redirection entry. */
  readonly mode: number;
  readonly vector: number;
  readonly level: boolean;
}

/** What `KvmLocalApics.save()` gives: local APICs in the form that every engine's have. */
export interface LocalApicsStateV1 {
  kind: "local-apics";
  version: 1;
  lapics: LocalApicStateV1[];
}

const MODE_EXTINT = 7;
const MSI_BASE = 0xfee0_0000;
const MSI_LOGICAL = 4;
const MSI_ASSERT_LEVEL = 0xc000;

export class KvmLocalApics implements InterruptController, MsiTarget, KernelApics {
  /** Told on the VM's thread that a processor has ended a level-triggered interrupt. */
  onEndOfInterrupt: (vector: number) => void = () => {};

  readonly #apics: LocalApicAccess;
  readonly #msi = new Struct(Size.MSI);
  /** Routes of level-triggered messages, by address and data; the oldest goes when all inputs are used. */
  readonly #levels = new Map<string, number>();
  #host: IrqChipHost | undefined;
  #routes: IrqRoutes | undefined;

  /** @throws RangeError unless there are 1 to 255 vCPUs. */
  constructor(options: { readonly vcpus: number }) {
    this.#apics = new LocalApicAccess(options.vcpus);
  }

  pending(): number {
    return -1;
  }

  acknowledge(): number {
    return -1;
  }

  localApic(_index: number): LocalApicPort {
    return IN_KERNEL;
  }

  connect(_signals: VcpuSignals): void {}

  /** Sends an I/O APIC's message. False where no local APIC took it; ExtINT, which is the 8259s', is not taken. */
  deliver(message: InterruptMessage): boolean {
    if (message.mode === MODE_EXTINT || this.#host === undefined) return false;
    const address = MSI_BASE | ((message.destination & 0xff) << 12) | (message.logical ? MSI_LOGICAL : 0);
    const data = (message.level ? MSI_ASSERT_LEVEL : 0) | ((message.mode & 7) << 8) | (message.vector & 0xff);
    if (message.level) this.#route(address >>> 0, data);
    return this.#signal(address >>> 0, data) > 0;
  }

  send(address: number, data: number): void {
    this.#signal(address, data);
  }

  attach(host: IrqChipHost): void {
    if (this.#host)
      throw new RangeError("interrupts: this interrupt controller belongs to another VM already");
    host.enable(Capability.KVM_CAP_SPLIT_IRQCHIP, BigInt(IOAPIC_PINS));
    this.#host = host;
    this.#apics.host = host;
    this.#routes = new IrqRoutes(host.native, host.fd, host.routeLimit, false);
  }

  vcpuMade(index: number, fd: number): void {
    this.#apics.add(index, fd);
  }

  detach(): void {
    this.#host = undefined;
    this.#apics.clear();
  }

  endOfInterrupt(vector: number): void {
    this.onEndOfInterrupt(vector);
  }

  reset(): void {
    this.#apics.reset();
  }

  tscChanged(): void {
    this.#apics.tscChanged();
  }

  save(): LocalApicsStateV1 {
    return { kind: "local-apics", version: 1, lapics: this.#apics.save(false) };
  }

  /** @throws StateError where `state` is not one with as many vCPUs, or names what KVM's local APICs cannot hold. */
  restore(state: unknown): void {
    const reader = new StateReader(state, "local-apics", 1);
    const lapics = parseLocalApicStates(reader, this.#apics.vcpus);
    this.#apics.write(this.#apics.convert(lapics, "local-apics"));
  }

  #route(address: number, data: number): void {
    const key = `${address} ${data}`;
    if (this.#levels.has(key)) return;
    let gsi = this.#levels.size;
    if (gsi >= IOAPIC_PINS) {
      const [oldest] = this.#levels;
      gsi = oldest![1];
      this.#levels.delete(oldest![0]);
    }
    this.#levels.set(key, gsi);
    this.#routes!.setMessage(gsi, address, data);
    this.#routes!.commit();
  }

  #signal(address: number, data: number): number {
    const msi = this.#msi;
    msi.setU32(0, address);
    msi.setU32(8, data);
    return this.#host ? this.#host.native.tryIoctlStruct(this.#host.fd, "KVM_SIGNAL_MSI", msi) : 0;
  }
}
