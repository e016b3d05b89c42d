import { type Engine, type EngineProbe, EngineUnavailableError } from "@skep/vcpu";
import { importKvm } from "./kvm-entry.ts";

/** Engines by name; "auto" takes the first that this machine can really use. */
export const ENGINE_NAMES = ["auto", "kvm", "softvt"] as const;
export type EngineName = (typeof ENGINE_NAMES)[number];

/** What is asked of an engine. */
export interface EngineNeeds {
  /** Instruction-counted time. Default false. */
  readonly countsInstructions?: boolean;
  /** Told in one line why "auto" did not take an engine that is there. */
  readonly onNotice?: (notice: string) => void;
}

/** Makes the software engine. It is a third of all code here: who asks for KVM does not wait for it to be loaded. */
export async function loadSoftvtEngine(): Promise<Engine> {
  const { createSoftvtEngine } = await import("@skep/softvt");
  return createSoftvtEngine();
}

/** Makes KVM's engine. @throws EngineUnavailableError where its package part cannot be loaded, as in a browser. */
export async function loadKvmEngine(): Promise<Engine> {
  try {
    const { createKvmEngine } = await importKvm();
    return createKvmEngine();
  } catch (cause) {
    throw new EngineUnavailableError("ENGINE_UNAVAILABLE", 'engine "kvm": there is no Node here to run it', {
      cause,
    });
  }
}

/**
 * Makes an engine that can be used here.
 *
 * @throws EngineUnavailableError where there is none: the message gives the evidence.
 */
export async function selectEngine(name: EngineName, needs: EngineNeeds = {}): Promise<Engine> {
  if (name === "kvm") return askedKvm(await loadKvmEngine(), needs);
  if (name === "auto" && !needs.countsInstructions) {
    const [engine, probe] = await tryKvm();
    if (engine !== undefined && probe.usable) return engine;
    if (!probe.isAbsent) needs.onNotice?.(`softvt runs this guest, not KVM: ${probe.evidence}`);
  }
  return usable(await loadSoftvtEngine());
}

/** Whoever asks for KVM by name gets it where it opens, however slow: a notice says so. */
async function askedKvm(engine: Engine, needs: EngineNeeds): Promise<Engine> {
  // Reading this opens the device, and throws with the reason where that fails.
  if (engine.maxVcpus < 1) return usable(engine);
  const probe = await engine.probe({ quick: true });
  if (!probe.usable) needs.onNotice?.(probe.evidence);
  return engine;
}

async function tryKvm(): Promise<[Engine | undefined, EngineProbe]> {
  try {
    const engine = await loadKvmEngine();
    return [engine, await engine.probe()];
  } catch (error) {
    return [undefined, { usable: false, isAbsent: true, evidence: String(error) }];
  }
}

async function usable(engine: Engine): Promise<Engine> {
  const probe = await engine.probe();
  if (probe.usable) return engine;
  throw new EngineUnavailableError("ENGINE_UNAVAILABLE", `engine "${engine.name}": ${probe.evidence}`);
}
