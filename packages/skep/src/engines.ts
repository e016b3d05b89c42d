import { createSoftvtEngine } from "@skep/softvt";
import { type Engine, EngineUnavailableError } from "@skep/vcpu";

/** Engines by name; "auto" takes the first that this machine can really use. */
export const ENGINE_NAMES = ["auto", "kvm", "softvt"] as const;
export type EngineName = (typeof ENGINE_NAMES)[number];

/**
 * Makes an engine that can be used here.
 *
 * @throws EngineUnavailableError where there is none: the message gives each one's evidence.
 */
export async function selectEngine(name: EngineName): Promise<Engine> {
  if (name === "kvm") {
    throw new EngineUnavailableError(
      "ENGINE_UNAVAILABLE",
      'engine "kvm": not built yet, so /dev/kvm was not tried; use "softvt", which needs no host support',
    );
  }
  const engine = createSoftvtEngine();
  const probe = await engine.probe();
  if (!probe.usable) {
    throw new EngineUnavailableError("ENGINE_UNAVAILABLE", `engine "${engine.name}": ${probe.evidence}`);
  }
  return engine;
}
