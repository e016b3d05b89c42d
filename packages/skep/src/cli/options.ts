import { CPUID_MODELS, type CpuidModelName } from "@skep/vcpu";
import { ENGINE_NAMES, type EngineName, loadSoftvtEngine } from "../engines.ts";
import { yieldHelperThreads } from "../node/helper-threads.ts";
import type { Arguments } from "./usage.ts";

/** Options that every command which runs a guest has, for `node:util`'s parseArgs. */
export const GUEST_OPTIONS = {
  engine: { type: "string" },
  kernel: { type: "string" },
  initrd: { type: "string" },
  append: { type: "string" },
  memory: { type: "string" },
  cpus: { type: "string" },
  cpu: { type: "string" },
  clock: { type: "string" },
  help: { type: "boolean", short: "h" },
} as const;

/** Their lines in a command's help. */
export const GUEST_OPTIONS_HELP = `  --engine NAME   softvt, kvm or auto (default auto: kvm where it runs guests at speed, else softvt)
  --kernel FILE   bzImage or ELF kernel
  --initrd FILE   initial RAM disk
  --append TEXT   kernel command line
  --memory SIZE   guest RAM, such as 512M or 1G (default 512M)
  --cpus N        vCPUs (default 1)
  --cpu MODEL     processor that the guest sees: x86-64-v2, x86-64-v3 (with AVX2), or host: all that the engine has
                  (default host with kvm, else x86-64-v2)
  --clock KIND    real, or instructions: time by instructions executed, for runs that repeat (default real)`;

/** The guest's options, checked one by one. */
export interface GuestOptions {
  readonly engine: EngineName;
  readonly kernel: Uint8Array | undefined;
  readonly initrd: Uint8Array | undefined;
  readonly commandLine: string | undefined;
  readonly memoryMiB: number;
  readonly cpus: number;
  /** Absent: the engine's own choice. */
  readonly cpuid?: { readonly model: CpuidModelName };
  readonly clock: "real" | "instructions";
}

/**
 * Begins to load softvt, unless another engine is asked for by name: it unpacks and compiles on threads of its own
 * while the guest's files are read.
 *
 * @throws UsageError where no engine has the name.
 */
export function startSoftvt(args: Arguments): void {
  if (args.choice("engine", ENGINE_NAMES, "auto") === "kvm") return;
  yieldHelperThreads();
  // A probe never fails; where there is no engine, that is said when it is wanted.
  void loadSoftvtEngine().then((engine) => engine.probe());
}

/** @throws UsageError for the first option that cannot be used. */
export function readGuestOptions(args: Arguments): GuestOptions {
  return {
    ...readCpuModel(args),
    engine: args.choice("engine", ENGINE_NAMES, "auto"),
    memoryMiB: args.sizeMiB("memory", 16, 3584, 512),
    cpus: args.integer("cpus", 1, 255, 1),
    clock: args.choice("clock", ["real", "instructions"], "real"),
    commandLine: args.ascii("append"),
    kernel: args.file("kernel"),
    initrd: args.file("initrd"),
  };
}

function readCpuModel(args: Arguments): Pick<GuestOptions, "cpuid"> {
  if (args.text("cpu") === undefined) return {};
  const models = [...(Object.keys(CPUID_MODELS) as CpuidModelName[]), "host" as const];
  return { cpuid: { model: args.choice("cpu", models, "host") } };
}

/** One line on stderr; what the guest says is on stdout. */
export function printNotice(notice: string): void {
  process.stderr.write(`skep: ${notice}\n`);
}
