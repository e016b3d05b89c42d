/** KVM as an engine of `@skep/vcpu`. */
import type {
  CpuidTable,
  Engine,
  EngineProbe,
  EngineProbeOptions,
  EngineVm,
  EngineVmOptions,
} from "../engine.ts";
import { EngineUnsuitableError } from "../errors.ts";
import type { EngineIrqChip } from "../irq.ts";
import { KVM_DEVICE, KvmHost, NEEDED_FOR_IRQCHIP } from "./host.ts";
import { KvmIrqChip } from "./irqchip.ts";
import { KvmLocalApics } from "./local-apics.ts";
import { probeKvm } from "./probe.ts";
import { KvmVm, type KvmVmSettings } from "./vm.ts";

export interface KvmOptions extends KvmVmSettings {
  /** Default `/dev/kvm`. */
  readonly device?: string;
}

/** What is asked of the host once, when it is first needed. */
interface HostFacts {
  readonly maxVcpus: number;
  readonly cpuid: CpuidTable;
  readonly tscHz: number;
}

class KvmEngine implements Engine {
  readonly name = "kvm";
  readonly hasIrqchip = true;
  readonly countsInstructions = false;
  readonly arenaBytes = 0;
  readonly cpuModel = "host";
  readonly #device: string;
  readonly #settings: KvmVmSettings;
  #known: HostFacts | undefined;

  constructor(options: KvmOptions) {
    this.#device = options.device ?? KVM_DEVICE;
    this.#settings = options;
  }

  /** @throws EngineUnavailableError where this machine cannot run the engine. */
  get maxVcpus(): number {
    return this.#facts.maxVcpus;
  }

  /** @throws EngineUnavailableError */
  get supportedCpuid(): CpuidTable {
    return this.#facts.cpuid;
  }

  /** @throws EngineUnavailableError */
  get tscHz(): number {
    return this.#facts.tscHz;
  }

  probe(options: EngineProbeOptions = {}): Promise<EngineProbe> {
    return probeKvm(this.#device, options);
  }

  createIrqChip(options: { readonly vcpus: number }): EngineIrqChip {
    return new KvmIrqChip(options);
  }

  async createVm(options: EngineVmOptions): Promise<EngineVm> {
    const host = KvmHost.open(this.#device);
    try {
      const { interrupts } = options;
      const isOurs = interrupts instanceof KvmIrqChip || interrupts instanceof KvmLocalApics;
      const irqchip = isOurs ? interrupts : undefined;
      if (irqchip) host.require(NEEDED_FOR_IRQCHIP);
      if (interrupts instanceof KvmLocalApics) host.require(["KVM_CAP_SPLIT_IRQCHIP"]);
      if (options.vcpus > host.maxVcpus) {
        throw new EngineUnsuitableError(
          `vcpus: this host's KVM takes ${host.maxVcpus} (KVM_CAP_MAX_VCPUS), got ${options.vcpus}`,
        );
      }
      return new KvmVm(host, options, irqchip, this.#settings);
    } catch (error) {
      host.close();
      throw error;
    }
  }

  get #facts(): HostFacts {
    if (this.#known) return this.#known;
    const host = KvmHost.open(this.#device);
    try {
      this.#known = { maxVcpus: host.maxVcpus, cpuid: host.cpuid, tscHz: host.tscHz };
    } finally {
      host.close();
    }
    return this.#known;
  }
}

/**
 * Makes KVM's engine; /dev/kvm is opened when it is first needed.
 *
 * A VM whose interrupt controller comes from `createIrqChip` runs its vCPUs on threads of their own. With any other
 * one its vCPUs run on the VM's thread in slices, as softvt's do: slower, for debugging and conformance.
 *
 * @example
 * const engine = createKvmEngine();
 * const { usable, evidence } = await engine.probe();
 */
export function createKvmEngine(options: KvmOptions = {}): Engine {
  return new KvmEngine(options);
}
