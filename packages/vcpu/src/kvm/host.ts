/** What this host's KVM is: opened once for each VM, asked before anything is made. */
import { readFileSync, statSync } from "node:fs";
import type { CpuidTable } from "../engine.ts";
import { EngineUnavailableError } from "../errors.ts";
import { Capability, type CapabilityName, KVM_API_VERSION } from "./abi.ts";
import { supportedCpuid } from "./cpuid.ts";
import type { XsaveComponent } from "./fpu-state.ts";
import { stateMsrs } from "./msr-policy.ts";
import { errnoName, Native } from "./native.ts";
import { Size } from "./structs.ts";

export const KVM_DEVICE = "/dev/kvm";

/** What the engine cannot do without; all of it is in Linux 5.10 and newer. */
const NEEDED: readonly CapabilityName[] = [
  "KVM_CAP_USER_MEMORY",
  "KVM_CAP_SET_TSS_ADDR",
  "KVM_CAP_EXT_CPUID",
  "KVM_CAP_MP_STATE",
  "KVM_CAP_USER_NMI",
  "KVM_CAP_VCPU_EVENTS",
  "KVM_CAP_DEBUGREGS",
  "KVM_CAP_ENABLE_CAP_VM",
  "KVM_CAP_XSAVE",
  "KVM_CAP_GET_TSC_KHZ",
  "KVM_CAP_READONLY_MEM",
  "KVM_CAP_IMMEDIATE_EXIT",
  "KVM_CAP_X86_USER_SPACE_MSR",
  "KVM_CAP_X86_MSR_FILTER",
];
/** What only VMs with KVM's own interrupt controller need. */
export const NEEDED_FOR_IRQCHIP: readonly CapabilityName[] = [
  "KVM_CAP_IRQCHIP",
  "KVM_CAP_IRQ_ROUTING",
  "KVM_CAP_SIGNAL_MSI",
];

/** A host's answers to KVM_CHECK_EXTENSION. */
export type Capabilities = Readonly<Record<CapabilityName, number>>;

/** What does not change while the host is up: asked once of each device. */
interface HostFacts {
  readonly capabilities: Capabilities;
  cpuid?: CpuidTable;
  msrs?: readonly number[];
  tscHz?: number;
}
const KNOWN = new Map<string, HostFacts>();

/** An open /dev/kvm. */
export class KvmHost {
  readonly native: Native;
  readonly fd: number;
  readonly #facts: HostFacts;

  /**
   * Opens the device and checks that it is one that the engine can use.
   *
   * @throws EngineUnavailableError saying what was tried, what came and what to do.
   */
  static open(device: string = KVM_DEVICE): KvmHost {
    const native = Native.open();
    if (typeof native === "string") throw unavailable(native);
    let fd: number;
    try {
      fd = native.openDevice(device);
    } catch (cause) {
      throw unavailable(whyNotOpened(device, cause), cause);
    }
    try {
      return new KvmHost(native, fd, device);
    } catch (error) {
      native.close(fd);
      throw error;
    }
  }

  private constructor(native: Native, fd: number, device: string) {
    this.native = native;
    this.fd = fd;
    let version: number;
    try {
      version = native.ioctl(fd, "KVM_GET_API_VERSION");
    } catch (cause) {
      throw unavailable(`${device} is not KVM's: KVM_GET_API_VERSION was refused`, cause);
    }
    if (version !== KVM_API_VERSION) {
      throw unavailable(
        `KVM_GET_API_VERSION gave ${version}, expected ${KVM_API_VERSION}: this kernel's KVM is not one that is known`,
      );
    }
    this.#facts = KNOWN.get(device) ?? { capabilities: readCapabilities(native, fd) };
    KNOWN.set(device, this.#facts);
    this.require(NEEDED);
  }

  get capabilities(): Capabilities {
    return this.#facts.capabilities;
  }

  /** @throws EngineUnavailableError naming the capabilities that are missing. */
  require(names: readonly CapabilityName[]): void {
    const missing = names.filter((name) => this.capabilities[name] <= 0);
    if (missing.length === 0) return;
    throw unavailable(`this kernel's KVM lacks ${missing.join(", ")}: use Linux 5.10 or newer on x86-64`);
  }

  get maxVcpus(): number {
    return this.capabilities.KVM_CAP_MAX_VCPUS || this.capabilities.KVM_CAP_NR_VCPUS || 4;
  }

  get cpuid(): CpuidTable {
    this.#facts.cpuid ??= supportedCpuid(this.native, this.fd);
    return this.#facts.cpuid;
  }

  /** MSRs that belong to a vCPU's state. */
  get stateMsrs(): readonly number[] {
    this.#facts.msrs ??= stateMsrs(this.native, this.fd);
    return this.#facts.msrs;
  }

  /** Frequency in Hz at which a guest's TSC runs unless it is set. */
  get tscHz(): number {
    this.#facts.tscHz ??= this.#readTscHz();
    return this.#facts.tscHz;
  }

  /** Bytes of a vCPU's XSAVE area. */
  get xsaveBytes(): number {
    return Math.max(this.capabilities.KVM_CAP_XSAVE2, Size.XSAVE);
  }

  /** XSAVE components beyond x87 and SSE that this processor has and guests may use. */
  get xsaveComponents(): readonly XsaveComponent[] {
    const { eax, edx } = this.cpuid.query(0, 0xd, 0);
    const offered = BigInt(eax) | (BigInt(edx) << 32n);
    const components: XsaveComponent[] = [];
    for (let number = 2; number < 63; number++) {
      if (((offered >> BigInt(number)) & 1n) === 0n) continue;
      const { eax: bytes, ebx: offset } = this.cpuid.query(0, 0xd, number);
      if (bytes > 0 && offset + bytes <= this.xsaveBytes) components.push({ number, offset, bytes });
    }
    return components;
  }

  close(): void {
    this.native.close(this.fd);
  }

  /** Only a VM knows it, and before Linux 5.18 only a vCPU. */
  #readTscHz(): number {
    const { native } = this;
    const vm = native.ioctl(this.fd, "KVM_CREATE_VM");
    try {
      if (this.capabilities.KVM_CAP_VM_TSC_CONTROL > 0) return native.ioctl(vm, "KVM_GET_TSC_KHZ") * 1000;
      const vcpu = native.ioctl(vm, "KVM_CREATE_VCPU", 0);
      try {
        return native.ioctl(vcpu, "KVM_GET_TSC_KHZ") * 1000;
      } finally {
        native.close(vcpu);
      }
    } finally {
      native.close(vm);
    }
  }
}

function readCapabilities(native: Native, fd: number): Capabilities {
  const all = Object.entries(Capability).map(([name, number]) => [
    name,
    native.ioctl(fd, "KVM_CHECK_EXTENSION", number),
  ]);
  return Object.fromEntries(all) as Capabilities;
}

function unavailable(evidence: string, cause?: unknown): EngineUnavailableError {
  return new EngineUnavailableError("ENGINE_UNAVAILABLE", `engine "kvm": ${evidence}`, { cause });
}

function whyNotOpened(device: string, cause: unknown): string {
  const code = cause instanceof Error && "code" in cause ? String(cause.code) : String(cause);
  switch (code) {
    case "ENOENT":
      return `there is no ${device}: virtualization is off in the firmware, the kvm module is not loaded, or this is a guest or container without it`;
    case "EACCES":
      return `${device} may not be opened by this user: ${groupAdvice(device)}`;
    case "EPERM":
      return `${device} may not be opened in this container: give it the device (docker run --device ${device})`;
    case "ENODEV":
    case "ENXIO":
      return `${device} is there without a module behind it: load kvm_intel or kvm_amd`;
    default:
      return `${device} cannot be opened: ${code}`;
  }
}

/** Who may open the device, by name where /etc/group has one. */
function groupAdvice(device: string): string {
  try {
    const { gid, mode } = statSync(device);
    const lines = readFileSync("/etc/group", "utf8").split("\n");
    const name = lines.map((line) => line.split(":")).find((fields) => fields[2] === String(gid))?.[0];
    if ((mode & 0o060) !== 0o060)
      return `its group has no access either (mode ${(mode & 0o777).toString(8)})`;
    return `join its group, ${name ?? `number ${gid}`} (usermod -aG ${name ?? gid} USER, then log in again)`;
  } catch (error) {
    const errno = error instanceof Error && "errno" in error ? Number(error.errno) : 0;
    return `its group could not be found out (${errnoName(Math.abs(errno))})`;
  }
}
