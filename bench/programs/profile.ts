// npm run bench -- programs-profile [PROGRAM,…]: what softvt's regions did for each program. Counts, no times: each entry
// into a region is counted by a function of JavaScript's, which costs more than the region itself.
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createSoftvtEngine } from "@skep/softvt";
import type { EngineVm } from "@skep/vcpu";
import { createVm } from "skep";
import { names } from "../arguments.ts";
import { packPrograms } from "./guest.ts";
import { PROGRAMS } from "./programs.ts";

interface Counters {
  /** Instructions executed, of them those in regions, and ways into one. */
  executed: number;
  inRegions: number;
  entries: number;
  /** Regions compiled, their instructions, and how many were dropped; instructions decoded, decoded code thrown away as a whole. */
  compiled: number;
  instructions: number;
  dropped: number;
  decoded: number;
  flushes: number;
}

/** What the engine's VM counts beside its contract. */
interface Stats {
  readonly regionStats: {
    readonly compiled: number;
    readonly instructions: number;
    readonly dropped: number;
  };
  readonly codeStats: { readonly instructions: number; readonly flushes: number };
}

const TITLES = {
  executed: "million instr.",
  interpreted: "interpreted",
  perEntry: "per region entry",
  compiled: "regions made",
  instructions: "of instructions",
  dropped: "dropped",
  decoded: "instr. decoded",
  flushes: "flushes",
} as const;

const BYTES_OF_A_UOP = 16;
const regions = { entries: 0, uops: 0, within: 0 };
countEntries();

const all = PROGRAMS.map(({ name }) => name);
const wanted = names("PROGRAM", process.argv[3] ?? all.join(), all);
const programs = PROGRAMS.filter(({ name }) => wanted.has(name));
const work = mkdtempSync(join(tmpdir(), "skep-bench-profile-"));
try {
  await profile();
} finally {
  rmSync(work, { recursive: true });
}

async function profile(): Promise<void> {
  const guest = await packPrograms(programs, work);
  let vm: (EngineVm & Stats) | undefined;
  const engine = createSoftvtEngine();
  await using machine = await createVm({
    kernel: readFileSync(guest.kernel),
    initrd: readFileSync(guest.initrd),
    commandLine: "console=ttyS0 panic=-1",
    memoryMiB: guest.memoryMiB,
    engine: {
      ...engine,
      createVm: async (options) => {
        vm = (await engine.createVm(options)) as EngineVm & Stats;
        return vm;
      },
    },
  });
  const now = (): Counters => ({
    executed: machine.vm.vcpus[0]!.instructions,
    inRegions: regions.uops,
    entries: regions.entries,
    compiled: vm!.regionStats.compiled,
    instructions: vm!.regionStats.instructions,
    dropped: vm!.regionStats.dropped,
    decoded: vm!.codeStats.instructions,
    flushes: vm!.codeStats.flushes,
  });
  let before = now();
  let partial = "";
  process.stdout.write(`${row("", Object.values(TITLES))}\n`);
  machine.console.on("data", (bytes) => {
    const lines = (partial + new TextDecoder().decode(bytes)).split(/\r?\n/);
    partial = lines.pop() ?? "";
    for (const line of lines) {
      const [, marker, name] = /@@ (begin|end) (\w+)/.exec(line) ?? [];
      if (marker === "begin") before = now();
      if (marker === "end") process.stdout.write(`${row(name!, cells(before, now()))}\n`);
    }
  });
  const outcome = await machine.run();
  if (outcome.kind !== "poweroff") throw new Error(`the guest ended by ${outcome.kind}`);
}

function cells(from: Counters, to: Counters): string[] {
  const part = (of: keyof Counters): number => to[of] - from[of];
  const executed = part("executed");
  const inRegions = part("inRegions");
  return [
    (executed / 1e6).toFixed(0),
    `${((100 * (executed - inRegions)) / executed).toFixed(1)} %`,
    (inRegions / part("entries")).toFixed(0),
    String(part("compiled")),
    String(part("instructions")),
    String(part("dropped")),
    String(part("decoded")),
    String(part("flushes")),
  ];
}

function row(name: string, texts: readonly string[]): string {
  return `${name.padEnd(9)}${texts.map((text) => text.padStart(17)).join("")}`;
}

/**
 * Puts a counter in front of every region: what an engine stores in its table of regions is (budget left, entry) → budget
 * left, in bytes of micro-ops. Regions call each other through the same table: the inner one's are not the outer one's.
 */
function countEntries(): void {
  const { set } = WebAssembly.Table.prototype;
  WebAssembly.Table.prototype.set = function (
    this: WebAssembly.Table,
    index: number,
    region?: unknown,
  ): void {
    if (typeof region !== "function") {
      set.call(this, index, region);
      return;
    }
    const counted = (left: number, entry: number): number => {
      const outer = regions.within;
      regions.within = 0;
      regions.entries++;
      const rest = region(left, entry) as number;
      const spent = (left - rest) / BYTES_OF_A_UOP;
      regions.uops += spent - regions.within;
      regions.within = outer + spent;
      return rest;
    };
    set.call(this, index, reexported(counted));
  };
}

/** A function of JavaScript's as one of WebAssembly's, which tables want: a module that exports what it imports. */
function reexported(call: (left: number, entry: number) => number): unknown {
  const bytes = Uint8Array.of(
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    // Type 0: (i32, i32) → i32. Import "m" "f". Export "f".
    ...[1, 7, 1, 0x60, 2, 0x7f, 0x7f, 1, 0x7f],
    ...[2, 7, 1, 1, 0x6d, 1, 0x66, 0, 0],
    ...[7, 5, 1, 1, 0x66, 0, 0],
  );
  return new WebAssembly.Instance(new WebAssembly.Module(bytes), { m: { f: call } }).exports.f;
}
