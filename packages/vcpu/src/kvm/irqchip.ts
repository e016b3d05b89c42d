/**
 * KVM's own interrupt controllers: a local APIC for each vCPU, an I/O APIC, two 8259s, all in the kernel.
 *
 * ISA IRQ n and global system interrupt n are one input, as `@skep/chipset`'s chips are wired: n goes to the 8259s
 * below 16 and to the I/O APIC, the timer's IRQ 0 as GSI 2. In KVM's own numbers, which routes translate, the timer
 * is GSI 0: one line leads to both chips.
 */
import type { EngineIrqChip, IrqLine, LocalApicPort, VcpuSignals } from "../irq.ts";
import { StateReader } from "../validate.ts";
import { IrqChipId } from "./abi.ts";
import { type IrqFd, makeIrqFd } from "./event-fds.ts";
import { IOAPIC_PINS, IrqRoutes } from "./irq-routes.ts";
import type { Native } from "./native.ts";
import { Size, Struct } from "./structs.ts";

const GSI_COUNT = IOAPIC_PINS;
const ISA_IRQS = 16;
const ISA_CASCADE = 2;
const GSI_TIMER = 2;
const MSR_APIC_BASE = 0x1b;
const MSR_TSC_DEADLINE = 0x6e0;
/** IA32_APIC_BASE after RESET. */
const APIC_BASE_RESET = 0xfee0_0800n;
const APIC_BASE_BSP = 0x100n;
const CHIP_BYTES = 512;

/** One local APIC: its register page (SDM Vol. 3A table 11-1) and the MSRs beside it. */
export interface KvmLocalApicStateV1 {
  registers: Uint8Array;
  apicBase: bigint;
  tscDeadline: bigint;
}

/** What `KvmIrqChip.save()` gives: the chips as KVM describes them (struct kvm_pic_state, kvm_ioapic_state). */
export interface KvmIrqChipStateV1 {
  kind: "kvm-irqchip";
  version: 1;
  lapics: KvmLocalApicStateV1[];
  /** 8259 master, 8259 slave, I/O APIC. */
  chips: Uint8Array[];
}

/** What the controller needs of the VM that it is attached to. */
export interface IrqChipHost {
  readonly native: Native;
  readonly fd: number;
  /** KVM_CAP_IRQ_ROUTING. */
  readonly routeLimit: number;
}

/** Nothing of a local APIC that is in the kernel comes to the run loop. */
const IN_KERNEL: LocalApicPort = {
  mmioBase: undefined,
  read: () => 0,
  write: () => {},
  readMsr: () => undefined,
  writeMsr: () => false,
  getTpr: () => 0,
  setTpr: () => {},
};

export class KvmIrqChip implements EngineIrqChip {
  readonly #vcpus: number;
  readonly #vcpuFds: number[] = [];
  readonly #asserted = new Uint16Array(GSI_COUNT);
  readonly #level = new Struct(Size.IRQ_LEVEL);
  readonly #msi = new Struct(Size.MSI);
  #host: IrqChipHost | undefined;
  #routes: IrqRoutes | undefined;
  /** The chips after RESET, as the kernel makes them. */
  #resetChips: Struct[] = [];
  #resetLapics: Struct[] = [];

  /** @throws RangeError unless there are 1 to 255 vCPUs. */
  constructor(options: { readonly vcpus: number }) {
    const { vcpus } = options;
    if (!Number.isInteger(vcpus) || vcpus < 1 || vcpus > 255) {
      throw new RangeError(`vcpus: expected an integer from 1 to 255, got ${vcpus}`);
    }
    this.#vcpus = vcpus;
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
    return makeIrqFd(native, fd, gsi === GSI_TIMER ? 0 : gsi);
  }

  /** A message-signalled interrupt as a file descriptor. @throws KvmError where the kernel refuses. */
  msiFd(address: number, data: number): IrqFd {
    const { native, fd } = this.#attached;
    const routes = this.#routes!;
    const gsi = routes.freeGsi();
    routes.setMessage(gsi, address, data);
    routes.commit();
    const irqFd = makeIrqFd(native, fd, gsi);
    return {
      fd: irqFd.fd,
      trigger: irqFd.trigger,
      close: () => {
        irqFd.close();
        routes.removeMessage(gsi);
        routes.commit();
      },
    };
  }

  // Of the VM.

  /** Makes the chips in a VM that has no vCPU yet. @throws KvmError */
  attach(host: IrqChipHost): void {
    if (this.#host)
      throw new RangeError("interrupts: this interrupt controller belongs to another VM already");
    host.native.ioctl(host.fd, "KVM_CREATE_IRQCHIP");
    this.#host = host;
    this.#routes = new IrqRoutes(host.native, host.fd, host.routeLimit, true);
    this.#routes.commit();
    this.#resetChips = this.#chipIds.map((id) => this.#readChip(id));
    for (let gsi = 0; gsi < GSI_COUNT; gsi++) if (this.#asserted[gsi]! > 0) this.#drive(gsi, true);
  }

  /** vCPU `index` was made, with its local APIC in its RESET state. */
  vcpuMade(index: number, fd: number): void {
    this.#vcpuFds[index] = fd;
    this.#resetLapics[index] = this.#lapic(fd);
  }

  detach(): void {
    this.#host = undefined;
    this.#vcpuFds.length = 0;
  }

  endOfInterrupt(_vector: number): void {}

  // State.

  reset(): void {
    this.#chipIds.forEach((id, i) => {
      this.#writeChip(id, this.#resetChips[i]!.bytes.subarray(8));
    });
    this.#vcpuFds.forEach((fd, i) => {
      const apicBase = APIC_BASE_RESET | (i === 0 ? APIC_BASE_BSP : 0n);
      const registers = this.#resetLapics[i]!.bytes;
      this.#writeLapic(fd, { registers, apicBase, tscDeadline: 0n });
    });
    for (let gsi = 0; gsi < GSI_COUNT; gsi++) if (this.#asserted[gsi]! > 0) this.#drive(gsi, true);
  }

  save(): KvmIrqChipStateV1 {
    return {
      kind: "kvm-irqchip",
      version: 1,
      lapics: this.#vcpuFds.map((fd) => ({
        registers: this.#lapic(fd).bytes.slice(),
        apicBase: this.#msr(fd, MSR_APIC_BASE),
        tscDeadline: this.#msr(fd, MSR_TSC_DEADLINE),
      })),
      chips: this.#chipIds.map((id) => this.#readChip(id).bytes.slice(8)),
    };
  }

  restore(state: unknown): void {
    const reader = new StateReader(state, "kvm-irqchip", 1);
    const bytes = (field: string, value: unknown, length: number): Uint8Array => {
      if (value instanceof Uint8Array && value.length === length) return value;
      throw reader.error(field, `${length} bytes`, value);
    };
    const u64 = (field: string, value: unknown): bigint => {
      if (typeof value === "bigint" && value >= 0n && value >> 64n === 0n) return value;
      throw reader.error(field, "an unsigned 64-bit bigint", value);
    };
    const lapics = reader.array("lapics", this.#vcpus).map((value, i): KvmLocalApicStateV1 => {
      const lapic = (value ?? {}) as Record<string, unknown>;
      return {
        registers: bytes(`lapics[${i}].registers`, lapic.registers, Size.LAPIC),
        apicBase: u64(`lapics[${i}].apicBase`, lapic.apicBase),
        tscDeadline: u64(`lapics[${i}].tscDeadline`, lapic.tscDeadline),
      };
    });
    const chips = reader
      .array("chips", this.#chipIds.length)
      .map((chip, i) => bytes(`chips[${i}]`, chip, CHIP_BYTES));
    this.#chipIds.forEach((id, i) => {
      this.#writeChip(id, chips[i]!);
    });
    this.#vcpuFds.forEach((fd, i) => {
      this.#writeLapic(fd, lapics[i]!);
    });
  }

  readonly #chipIds = [IrqChipId.PIC_MASTER, IrqChipId.PIC_SLAVE, IrqChipId.IOAPIC] as const;

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

  #drive(gsi: number, level: boolean): void {
    if (!this.#host) return;
    this.#level.setU32(0, gsi);
    this.#level.setU32(4, level ? 1 : 0);
    this.#host.native.ioctlStruct(this.#host.fd, "KVM_IRQ_LINE", this.#level);
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

  #lapic(fd: number): Struct {
    const lapic = new Struct(Size.LAPIC);
    this.#attached.native.ioctlStruct(fd, "KVM_GET_LAPIC", lapic);
    return lapic;
  }

  /** The mode before the registers, which are checked against it; the deadline last, which needs its timer's mode. */
  #writeLapic(fd: number, { registers, apicBase, tscDeadline }: KvmLocalApicStateV1): void {
    this.#setMsr(fd, MSR_APIC_BASE, apicBase);
    const lapic = new Struct(Size.LAPIC);
    lapic.bytes.set(registers);
    this.#attached.native.ioctlStruct(fd, "KVM_SET_LAPIC", lapic);
    this.#setMsr(fd, MSR_TSC_DEADLINE, tscDeadline);
  }

  #msr(fd: number, index: number): bigint {
    const msr = msrStruct(index, 0n);
    this.#attached.native.ioctlStruct(fd, "KVM_GET_MSRS", msr);
    return msr.u64(16);
  }

  #setMsr(fd: number, index: number, value: bigint): void {
    this.#attached.native.ioctlStruct(fd, "KVM_SET_MSRS", msrStruct(index, value));
  }

  get #attached(): IrqChipHost {
    if (!this.#host) throw new RangeError("this interrupt controller belongs to no VM");
    return this.#host;
  }
}

function msrStruct(index: number, value: bigint): Struct {
  const msr = new Struct(Size.MSRS_HEADER + Size.MSR_ENTRY);
  msr.setU32(0, 1);
  msr.setU32(8, index);
  msr.setU64(16, value);
  return msr;
}
