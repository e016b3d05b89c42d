/** A VM of KVM: memory slots from an address space, vCPUs, and the dirty log. */
import { availableParallelism } from "node:os";
import { type AddressSpace, PageFlag } from "@skep/memory";
import type { EngineVcpu, EngineVm, EngineVmOptions } from "../engine.ts";
import { EngineUnsuitableError, VmStateError } from "../errors.ts";
import { Capability, MANUAL_PROTECT_ENABLE, MsrExitReason } from "./abi.ts";
import { cpuidEntries } from "./cpuid.ts";
import { DirtyRings } from "./dirty-ring.ts";
import type { Doorbell, DoorbellRange } from "./event-fds.ts";
import type { KvmEvent } from "./exit-reader.ts";
import type { KvmHost } from "./host.ts";
import { HostMemory } from "./host-memory.ts";
import type { KernelApics } from "./irqchip.ts";
import { isOnlyVm, type KvmVcpuThreads } from "./live-threads.ts";
import { type MemorySlot, MemorySlots } from "./memory-slots.ts";
import { setMsrFilter } from "./msr-policy.ts";
import type { Native } from "./native.ts";
import { Size, Struct } from "./structs.ts";
import { KvmThreads } from "./threads.ts";
import { KvmVcpu, type VcpuHost } from "./vcpu.ts";
import type { StateFeatures } from "./vcpu-state.ts";
import { VmThread } from "./vm-thread.ts";

/**
 * Three pages and one that KVM needs for real mode on Intel processors without unrestricted guests. Below the
 * firmware's 16 MiB, where the layout has nothing.
 */
const IDENTITY_MAP = 0xfeff_c000;
const TSS = 0xfeff_d000;
const PAGE_BYTES = 4096;
/** Tolerance that KVM itself grants between a TSC's frequencies: 250 parts in a million. */
const TSC_TOLERANCE = 250e-6;

export interface KvmVmSettings {
  /**
   * Entries of each vCPU's dirty ring, a power of two from 512 to what the host takes; without it, or where the host
   * has no such ring, the dirty log is a bitmap for each slot.
   */
  readonly dirtyRingEntries?: number;
  /**
   * Whether vCPUs have threads of their own, in VMs with KVM's interrupt controller: "always", or "never", which takes a
   * single vCPU, and the main thread for the VM. Default "auto": unless that is so, and the host has one processor, and no
   * other such VM is open here.
   */
  readonly vcpuThreads?: "auto" | "always" | "never";
}

export class KvmVm implements EngineVm, VcpuHost {
  readonly native: Native;
  readonly fd: number;
  readonly runBytes: number;
  readonly features: StateFeatures;
  readonly tscHz: number;
  readonly hasTscOffset: boolean;
  readonly routeLimit: number;
  readonly signature: number;
  readonly threads?: KvmVcpuThreads;
  /** Raw access for what the contract does not have: more slots, the dirty log. */
  readonly slots: MemorySlots;

  readonly #host: KvmHost;
  readonly #options: EngineVmOptions;
  readonly #memory: AddressSpace;
  readonly #irqchip: KernelApics | undefined;
  readonly #hasManualProtect: boolean;
  readonly #rings: DirtyRings | undefined;
  readonly #regions: { readonly memory: HostMemory; readonly slot: MemorySlot }[] = [];
  readonly #vcpus: KvmVcpu[] = [];
  #logsDirty = false;
  #isClosed = false;

  /** @param host is the VM's from here on, and closed with it, also where this throws. */
  constructor(
    host: KvmHost,
    options: EngineVmOptions,
    irqchip: KernelApics | undefined,
    settings: KvmVmSettings = {},
  ) {
    const { native, capabilities } = host;
    this.native = native;
    this.#host = host;
    this.#options = options;
    this.#memory = options.memory;
    this.#irqchip = irqchip;
    this.tscHz = options.tscHz;
    this.signature = options.cpuid.query(0, 1, 0).eax;
    this.hasTscOffset = capabilities.KVM_CAP_VCPU_ATTRIBUTES > 0;
    this.routeLimit = capabilities.KVM_CAP_IRQ_ROUTING;
    this.#hasManualProtect = (capabilities.KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 & 1) !== 0;
    this.features = {
      msrs: host.stateMsrs,
      components: host.xsaveComponents,
      xsaveBytes: host.xsaveBytes,
      hasXcrs: capabilities.KVM_CAP_XCRS > 0 && (host.cpuid.query(0, 1, 0).ecx & (1 << 26)) !== 0,
      hasSregs2: capabilities.KVM_CAP_SREGS2 > 0,
      hasTscAdjust: (options.cpuid.query(0, 7, 0).ebx & 2) !== 0,
      hasKernelApic: irqchip !== undefined,
    };
    this.runBytes = native.ioctl(host.fd, "KVM_GET_VCPU_MMAP_SIZE");
    this.fd = native.ioctl(host.fd, "KVM_CREATE_VM");
    this.slots = new MemorySlots(native, this.fd, capabilities.KVM_CAP_NR_MEMSLOTS || 32);
    try {
      this.#configure();
      this.#rings = this.#makeRings(settings.dirtyRingEntries);
      irqchip?.attach(this);
      native.blockKick();
      this.invalidateMappings();
      if (irqchip) {
        this.threads = this.#makeThreads(settings.vcpuThreads ?? "auto");
      }
      options.memory.setMappingsWatcher(() => this.invalidateMappings());
      options.memory.dirty.setSource((gpa, bytes) => this.#collectDirty(gpa, bytes));
    } catch (error) {
      irqchip?.detach();
      native.close(this.fd);
      throw error;
    }
  }

  createVcpu(index: number): EngineVcpu {
    this.#expectOpen("createVcpu");
    const vcpu = new KvmVcpu(this, index);
    this.#vcpus[index] = vcpu;
    this.#checkTsc(vcpu);
    this.#irqchip?.vcpuMade(index, vcpu.fd);
    this.#rings?.add(vcpu.fd);
    this.threads?.add(vcpu);
    return vcpu;
  }

  /** RAM, ROM and device RAM of the address space become slots; a guest write to ROM comes as an exit. */
  invalidateMappings(): void {
    const base = this.native.address(this.#memory.arena.bytes);
    const wanted: MemorySlot[] = [];
    for (const { kind, name, start, end, arenaOffset } of this.#memory.ranges()) {
      if (arenaOffset === undefined) continue;
      const host = base + BigInt(arenaOffset);
      wanted.push({ gpa: start, bytes: end - start, host, readOnly: kind === "rom", name });
    }
    for (const region of this.#regions) wanted.push(region.slot);
    this.slots.update(wanted);
    if (this.#logsDirty) for (const slot of wanted) if (!slot.readOnly) this.slots.setLogging(slot.gpa, true);
  }

  /**
   * Gives the guest `bytes` of RAM at `gpa` beside the address space's, from host memory of its own: for more than an
   * arena holds. It lives as long as the VM. Devices of the address space do not reach it.
   *
   * @throws KvmError where the slot is misaligned or overlaps another, or the host refuses.
   */
  addHostMemory(gpa: number, bytes: number, name: string): HostMemory {
    this.#expectOpen("addHostMemory");
    const memory = new HostMemory(this.native, bytes);
    const slot: MemorySlot = { gpa, bytes, host: memory.address, readOnly: false, name };
    try {
      this.slots.add(slot);
    } catch (error) {
      memory.close();
      throw error;
    }
    this.#regions.push({ memory, slot });
    return memory;
  }

  /**
   * Guest writes to `range` call `onRing` on the VM's thread, without an exit and without stopping the guest.
   *
   * @throws EngineUnsuitableError where the vCPUs have no threads of their own. @throws KvmError
   */
  addDoorbell(range: DoorbellRange, onRing: () => void): Doorbell {
    this.#expectOpen("addDoorbell");
    if (this.threads) return this.threads.addDoorbell(range, onRing);
    throw new EngineUnsuitableError(
      "doorbells need a VM with KVM's own interrupt controller (createIrqChip)",
    );
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#memory.setMappingsWatcher(undefined);
    this.#memory.dirty.setSource(undefined);
    await this.threads?.close();
    this.#irqchip?.detach();
    this.#rings?.close();
    for (const vcpu of this.#vcpus) vcpu?.close();
    this.native.close(this.fd);
    for (const { memory } of this.#regions) memory.close();
    this.#host.close();
  }

  // For the vCPUs.

  cpuid(index: number): Struct {
    return cpuidEntries(this.#options.cpuid, index);
  }

  onEvent(event: KvmEvent): void {
    if (event.event === "ioapic-eoi") this.#irqchip?.endOfInterrupt(event.vector);
    else if (event.event === "dirty-ring-full") this.#harvest();
  }

  peek(address: number, length: number): Uint8Array {
    const slot = this.slots.find(address);
    if (slot === undefined) return new Uint8Array();
    const there = Math.min(length, slot.gpa + slot.bytes - address);
    const region = this.#regions.find((each) => each.slot.gpa === slot.gpa);
    return region ? region.memory.view(address - slot.gpa, there).slice() : this.#memory.dump(address, there);
  }

  /** Enables a capability of the VM. @throws KvmError */
  enable(capability: number, argument: bigint): void {
    const cap = new Struct(Size.ENABLE_CAP);
    cap.setU32(0, capability);
    cap.setU64(8, argument);
    this.native.ioctlStruct(this.fd, "KVM_ENABLE_CAP", cap);
  }

  #makeThreads(wanted: NonNullable<KvmVmSettings["vcpuThreads"]>): KvmVcpuThreads {
    const startTime = (nowNs: number, tsc: bigint): void => this.#startTime(nowNs, tsc);
    const loop = this.#options.vcpus === 1 && wanted !== "always" ? this.native.eventLoop() : undefined;
    if (wanted === "never" && loop === undefined) {
      throw new EngineUnsuitableError(
        `vcpuThreads: "never" takes a single vCPU, and the main thread of a Node that exports its libuv; ` +
          `expected "auto" or "always"`,
      );
    }
    const isWorthIt = wanted === "never" || (availableParallelism() === 1 && isOnlyVm());
    if (loop !== undefined && isWorthIt) return new VmThread(this.native, this.fd, { loop, startTime });
    return new KvmThreads(this.native, this.fd, startTime);
  }

  #expectOpen(action: string): void {
    if (this.#isClosed) throw new VmStateError(action, "open", "closed");
  }

  #configure(): void {
    const { native, fd } = this;
    const { capabilities } = this.#host;
    if (capabilities.KVM_CAP_SET_IDENTITY_MAP_ADDR > 0) {
      const address = new Struct(8);
      address.setU64(0, BigInt(IDENTITY_MAP));
      native.ioctlStruct(fd, "KVM_SET_IDENTITY_MAP_ADDR", address);
    }
    native.ioctl(fd, "KVM_SET_TSS_ADDR", TSS);
    this.enable(
      Capability.KVM_CAP_X86_USER_SPACE_MSR,
      BigInt(MsrExitReason.INVAL | MsrExitReason.UNKNOWN | MsrExitReason.FILTER),
    );
    setMsrFilter(native, fd, this.#irqchip !== undefined);
    if (capabilities.KVM_CAP_EXIT_ON_EMULATION_FAILURE > 0) {
      this.enable(Capability.KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1n);
    }
    if (this.#hasManualProtect) {
      this.enable(Capability.KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, MANUAL_PROTECT_ENABLE);
    }
  }

  /** All vCPUs' TSCs, each by its own offset from the clock's, in step to the tick; and kvmclock. */
  #startTime(nowNs: number, tsc: bigint): void {
    const [first] = this.#vcpus;
    if (first === undefined) return;
    if (this.hasTscOffset) {
      const base = first.tscBase(tsc);
      for (const vcpu of this.#vcpus) vcpu.setTscBase(base);
    } else {
      for (const vcpu of this.#vcpus) vcpu.setTsc(tsc);
    }
    this.#irqchip?.tscChanged();
    if (this.#host.capabilities.KVM_CAP_ADJUST_CLOCK <= 0) return;
    const clock = new Struct(Size.CLOCK_DATA);
    clock.setU64(0, BigInt(nowNs));
    this.native.ioctlStruct(this.fd, "KVM_SET_CLOCK", clock);
  }

  /**
   * Enters what the guest wrote into the arena's page flags. KVM's log costs a fault for each page that is written, so
   * it is off until somebody asks for the first time; then every page counts as written.
   */
  #collectDirty(gpa: number, bytes: number): void {
    const isFirst = !this.#logsDirty;
    this.#logsDirty = true;
    this.#harvest();
    for (const slot of this.slots.list()) {
      if (slot.readOnly) continue;
      if (isFirst) this.slots.setLogging(slot.gpa, true);
      const offset = this.#memory.arenaOffset(slot.gpa);
      if (offset === undefined || slot.gpa >= gpa + bytes || slot.gpa + slot.bytes <= gpa) continue;
      if (this.#rings && !isFirst) continue;
      const bitmap = isFirst ? undefined : this.slots.takeDirty(slot.gpa, this.#hasManualProtect);
      this.#markDirty(offset / PAGE_BYTES, slot.bytes / PAGE_BYTES, bitmap);
    }
  }

  #harvest(): void {
    const slots = new Map(this.slots.list().map((slot) => [slot.number, slot.gpa]));
    this.#rings?.harvest((number, page) => {
      const gpa = slots.get(number);
      const offset = gpa === undefined ? undefined : this.#memory.arenaOffset(gpa);
      if (offset !== undefined)
        Atomics.or(this.#memory.arena.flags, offset / PAGE_BYTES + page, PageFlag.DIRTY);
    });
  }

  #makeRings(entries: number | undefined): DirtyRings | undefined {
    const { capabilities } = this.#host;
    const isOrdered = capabilities.KVM_CAP_DIRTY_LOG_RING_ACQ_REL > 0;
    const most = isOrdered
      ? capabilities.KVM_CAP_DIRTY_LOG_RING_ACQ_REL
      : capabilities.KVM_CAP_DIRTY_LOG_RING;
    if (entries === undefined || most <= 0) return undefined;
    const isPowerOfTwo = Number.isInteger(entries) && (entries & (entries - 1)) === 0;
    if (!isPowerOfTwo || entries < 512 || entries * Size.DIRTY_GFN > most) {
      const max = most / Size.DIRTY_GFN;
      throw new RangeError(`dirtyRingEntries: expected a power of two from 512 to ${max}, got ${entries}`);
    }
    const capability = isOrdered
      ? Capability.KVM_CAP_DIRTY_LOG_RING_ACQ_REL
      : Capability.KVM_CAP_DIRTY_LOG_RING;
    this.enable(capability, BigInt(entries * Size.DIRTY_GFN));
    return new DirtyRings(this.native, this.fd, entries);
  }

  #markDirty(first: number, pages: number, bitmap: Uint8Array | undefined): void {
    const { flags } = this.#memory.arena;
    for (let page = 0; page < pages; page++) {
      if (bitmap !== undefined && (bitmap[page >> 3]! & (1 << (page & 7))) === 0) continue;
      Atomics.or(flags, first + page, PageFlag.DIRTY);
    }
  }

  #checkTsc(vcpu: KvmVcpu): void {
    const { native, tscHz } = this;
    const hz = native.ioctl(vcpu.fd, "KVM_GET_TSC_KHZ") * 1000;
    if (Math.abs(hz - tscHz) <= hz * TSC_TOLERANCE) return;
    if (this.#host.capabilities.KVM_CAP_TSC_CONTROL > 0) {
      native.ioctl(vcpu.fd, "KVM_SET_TSC_KHZ", Math.round(tscHz / 1000));
      return;
    }
    throw new EngineUnsuitableError(
      `tscHz: this host's processor cannot scale a guest's TSC; expected ${hz}, its own frequency, got ${tscHz}`,
    );
  }
}
