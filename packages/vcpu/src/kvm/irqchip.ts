/**
 * KVM's own interrupt controllers: a local APIC for each vCPU, an I/O APIC, two 8259s, all in the kernel.
 *
 * ISA IRQ n and global system interrupt n are one input, as `@skep/chipset`'s chips are wired: n goes to the 8259s
 * below 16 and to the I/O APIC, the timer's IRQ 0 as GSI 2. In KVM's own numbers, which routes translate, the timer
 * is GSI 0: one line leads to both chips.
 */
import type { EngineIrqChip, InterruptController, IrqLine, LocalApicPort, VcpuSignals } from "../irq.ts";
import { type IrqChipStateV1, parseIrqChipState } from "../irqchip-state.ts";
import { StateReader } from "../state-reader.ts";
import { IrqChipId } from "./abi.ts";
import { ioApicFromKvm, ioApicToKvm, picFromKvm, picIntr, picToKvm } from "./chip-states.ts";
import { type IrqFd, makeIrqFd } from "./event-fds.ts";
import { IOAPIC_PINS, IrqRoutes } from "./irq-routes.ts";
import { LocalApicAccess } from "./lapic-access.ts";
import type { Native } from "./native.ts";
import { pitFromKvm, pitToKvm } from "./pit-state.ts";
import { Size, Struct } from "./structs.ts";

const GSI_COUNT = IOAPIC_PINS;
const ISA_IRQS = 16;
const ISA_CASCADE = 2;
const GSI_TIMER = 2;
/** The I/O APIC's input 0 is the 8259s' INTR. */
const INTR_BIT = 1;
/** `kvm_pit_config.flags`: port 0x61 is the 8254's, too. */
const PIT_SPEAKER_DUMMY = 1;

export interface KvmIrqChipOptions {
  /** Number of vCPUs, 1 to 255. */
  readonly vcpus: number;
  /** KVM's 8254, too, at ports 0x40 to 0x43 and 0x61. Default false: a machine has one of its own. */
  readonly pit?: boolean;
}

/** What the controller needs of the VM that it is attached to. */
export interface IrqChipHost {
  readonly native: Native;
  readonly fd: number;
  /** Enables a capability of the VM. @throws KvmError */
  enable(capability: number, argument: bigint): void;
  /** KVM_CAP_IRQ_ROUTING. */
  readonly routeLimit: number;
}

/** What a VM does with an interrupt controller that has local APICs in the kernel. */
export interface KernelApics extends InterruptController {
  /** Makes the chips in a VM that has no vCPU yet. @throws KvmError */
  attach(host: IrqChipHost): void;
  /** vCPU `index` was made, with its local APIC in its RESET state. */
  vcpuMade(index: number, fd: number): void;
  /** The VM is gone. */
  detach(): void;
  /** The vCPUs' TSCs were set, because time goes on. */
  tscChanged(): void;
  /** A processor ended a level-triggered interrupt of an I/O APIC that is not in the kernel. */
  endOfInterrupt(vector: number): void;
}

/** Nothing of a local APIC that is in the kernel comes to the run loop. */
export const IN_KERNEL: LocalApicPort = {
  mmioBase: undefined,
  read: () => 0,
  write: () => {},
  readMsr: () => undefined,
  writeMsr: () => false,
  getTpr: () => 0,
  setTpr: () => {},
};

export class KvmIrqChip implements EngineIrqChip, KernelApics {
  readonly #apics: LocalApicAccess;
  /** How many devices assert each input. */
  readonly #asserted = new Uint16Array(GSI_COUNT);
  /** Levels of the inputs as the kernel knows them, bit n for the I/O APIC's input n. */
  #levels = 0;
  readonly #level = new Struct(Size.IRQ_LEVEL);
  readonly #msi = new Struct(Size.MSI);
  #host: IrqChipHost | undefined;
  #routes: IrqRoutes | undefined;
  /** The chips after RESET, as the kernel makes them. */
  #resetChips: Struct[] = [];
  readonly #irqFds = new Set<IrqFd>();
  readonly #hasPit: boolean;
  #resetPit: Struct | undefined;

  /** @throws RangeError unless there are 1 to 255 vCPUs. */
  constructor(options: KvmIrqChipOptions) {
    this.#hasPit = options.pit ?? false;
    this.#apics = new LocalApicAccess(options.vcpus);
  }

  // InterruptController: the kernel delivers by itself.

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

  // What devices see.

  line(gsi: number): IrqLine {
    if (!Number.isInteger(gsi) || gsi <= 0 || gsi >= GSI_COUNT) {
      throw new RangeError(`line: expected a GSI in [1, ${GSI_COUNT - 1}] (timer: 2), got ${gsi}`);
    }
    return this.#source(gsi === GSI_TIMER ? 0 : gsi);
  }

  isaLine(irq: number): IrqLine {
    if (!Number.isInteger(irq) || irq < 0 || irq >= ISA_IRQS || irq === ISA_CASCADE) {
      throw new RangeError(`isaLine: expected an ISA IRQ in [0, 15] but 2, got ${irq}`);
    }
    return this.#source(irq);
  }

  send(address: number, data: number): void {
    const msi = this.#msi;
    msi.setU32(0, address);
    msi.setU32(8, data);
    // A result of 0 or an error: nobody took it, or it is no message that KVM knows. A device cannot tell either.
    if (this.#host) this.#host.native.tryIoctlStruct(this.#host.fd, "KVM_SIGNAL_MSI", msi);
  }

  /**
   * An interrupt line's input as a file descriptor: whoever writes to it raises an edge, without this thread.
   *
   * @throws RangeError as `line()`. @throws KvmError where the kernel refuses.
   */
  irqFd(gsi: number): IrqFd {
    if (!Number.isInteger(gsi) || gsi <= 0 || gsi >= GSI_COUNT) {
      throw new RangeError(`irqFd: expected a GSI in [1, ${GSI_COUNT - 1}] (timer: 2), got ${gsi}`);
    }
    const { native, fd } = this.#attached;
    return this.#keep(makeIrqFd(native, fd, gsi === GSI_TIMER ? 0 : gsi), () => {});
  }

  /** A message-signalled interrupt as a file descriptor. @throws KvmError where the kernel refuses. */
  msiFd(address: number, data: number): IrqFd {
    const { native, fd } = this.#attached;
    const routes = this.#routes!;
    const gsi = routes.freeGsi();
    routes.setMessage(gsi, address, data);
    routes.commit();
    return this.#keep(makeIrqFd(native, fd, gsi), () => {
      routes.removeMessage(gsi);
      routes.commit();
    });
  }

  // Of the VM.

  attach(host: IrqChipHost): void {
    if (this.#host)
      throw new RangeError("interrupts: this interrupt controller belongs to another VM already");
    host.native.ioctl(host.fd, "KVM_CREATE_IRQCHIP");
    this.#host = host;
    this.#apics.host = host;
    this.#routes = new IrqRoutes(host.native, host.fd, host.routeLimit, true);
    this.#routes.commit();
    if (this.#hasPit) {
      const config = new Struct(Size.PIT_CONFIG);
      config.setU32(0, PIT_SPEAKER_DUMMY);
      host.native.ioctlStruct(host.fd, "KVM_CREATE_PIT2", config);
      this.#resetPit = this.#readPit();
    }
    this.#resetChips = this.#chipIds.map((id) => this.#readChip(id));
    this.#driveAll();
  }

  vcpuMade(index: number, fd: number): void {
    this.#apics.add(index, fd);
  }

  detach(): void {
    for (const irqFd of this.#irqFds) irqFd.close();
    this.#host = undefined;
    this.#apics.clear();
  }

  endOfInterrupt(_vector: number): void {}

  tscChanged(): void {
    this.#apics.tscChanged();
  }

  // State.

  reset(): void {
    this.#chipIds.forEach((id, i) => {
      this.#writeChip(id, this.#resetChips[i]!.bytes.subarray(8));
    });
    if (this.#resetPit) this.#writePit(this.#resetPit.bytes);
    this.#apics.reset();
    this.#driveAll();
  }

  save(): IrqChipStateV1 {
    const [master, slave, ioapic] = this.#chipIds.map((id) => this.#readChip(id).bytes.subarray(8));
    const pic = picFromKvm(master!, slave!);
    const intr = picIntr(pic);
    return {
      kind: "irqchip",
      version: 1,
      lapics: this.#apics.save(intr),
      ioapic: ioApicFromKvm(ioapic!, this.#levels | (intr ? INTR_BIT : 0)),
      pic,
      // KVM has its own idea of whose turn it is, and tells nobody.
      turn: 0,
      ...(this.#hasPit && pitFromKvm(this.#readPit().bytes, process.hrtime.bigint())),
    };
  }

  /** @throws StateError naming what is no such state, or what KVM's chips cannot hold; nothing is changed then. */
  restore(state: unknown): void {
    const { lapics, ioapic, pic, pit, speaker } = parseIrqChipState(state, this.#apics.vcpus);
    const reader = new StateReader(state, "irqchip");
    const expected = this.#hasPit
      ? "the 8254, which is one of these chips"
      : "no 8254: it is none of these chips";
    reader.check("pit", (pit !== undefined) === this.#hasPit, expected);
    const apics = this.#apics.convert(lapics, "irqchip");
    const { master, slave } = picToKvm(pic, "irqchip.pic");
    const timer = pit && pitToKvm(pit, speaker ?? false, "irqchip.pit");
    // An input that is still waiting for a local APIC to take its interrupt is served as the I/O APIC is written.
    this.#apics.write(apics);
    this.#writeChip(IrqChipId.PIC_MASTER, master);
    this.#writeChip(IrqChipId.PIC_SLAVE, slave);
    this.#writeChip(IrqChipId.IOAPIC, ioApicToKvm(ioapic));
    if (timer) this.#writePit(timer);
    this.#levels = ioapic.levels & ~INTR_BIT;
  }

  readonly #chipIds = [IrqChipId.PIC_MASTER, IrqChipId.PIC_SLAVE, IrqChipId.IOAPIC] as const;

  /** Remembers a descriptor until it is closed, by its owner or with the VM. */
  #keep(irqFd: IrqFd, onClose: () => void): IrqFd {
    const kept: IrqFd = {
      fd: irqFd.fd,
      trigger: irqFd.trigger,
      close: () => {
        if (!this.#irqFds.delete(kept)) return;
        irqFd.close();
        onClose();
      },
    };
    this.#irqFds.add(kept);
    return kept;
  }

  #source(gsi: number): IrqLine {
    let own = false;
    return {
      set: (level) => {
        if (level === own) return;
        own = level;
        const count = this.#asserted[gsi]! + (level ? 1 : -1);
        this.#asserted[gsi] = count;
        // Only the first to assert and the last to release move the input.
        if (count === (level ? 1 : 0)) this.#drive(gsi, level);
      },
    };
  }

  /** After the kernel's chips were made or reset: no input of theirs is asserted. */
  #driveAll(): void {
    this.#levels = 0;
    for (let gsi = 0; gsi < GSI_COUNT; gsi++) if (this.#asserted[gsi]! > 0) this.#drive(gsi, true);
  }

  /** A level that is there already is not driven: an edge-triggered input would take it for another edge. */
  #drive(gsi: number, level: boolean): void {
    if (!this.#host) return;
    const bit = 1 << (gsi === 0 ? GSI_TIMER : gsi);
    if (((this.#levels & bit) !== 0) === level) return;
    this.#levels ^= bit;
    this.#level.setU32(0, gsi);
    this.#level.setU32(4, level ? 1 : 0);
    this.#host.native.ioctlStruct(this.#host.fd, "KVM_IRQ_LINE", this.#level);
  }

  #readPit(): Struct {
    const pit = new Struct(Size.PIT_STATE2);
    this.#attached.native.ioctlStruct(this.#attached.fd, "KVM_GET_PIT2", pit);
    return pit;
  }

  #writePit(bytes: Uint8Array): void {
    const pit = new Struct(Size.PIT_STATE2);
    pit.bytes.set(bytes);
    this.#attached.native.ioctlStruct(this.#attached.fd, "KVM_SET_PIT2", pit);
  }

  #readChip(id: number): Struct {
    const chip = new Struct(Size.IRQCHIP);
    chip.setU32(0, id);
    this.#attached.native.ioctlStruct(this.#attached.fd, "KVM_GET_IRQCHIP", chip);
    return chip;
  }

  #writeChip(id: number, bytes: Uint8Array): void {
    const chip = new Struct(Size.IRQCHIP);
    chip.setU32(0, id);
    chip.bytes.set(bytes, 8);
    this.#attached.native.ioctlStruct(this.#attached.fd, "KVM_SET_IRQCHIP", chip);
  }

  get #attached(): IrqChipHost {
    if (!this.#host) throw new RangeError("this interrupt controller belongs to no VM");
    return this.#host;
  }
}
