/** Counts KVM's exits by the kernel's own trace events, whoever the hypervisor is. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";

const TRACING = "/sys/kernel/tracing";
/** What is counted, each event by a field of it. */
const HISTOGRAMS = {
  /** Exits of the processor: what the kernel deals with itself, and the rest. */
  hardware: ["kvm/kvm_exit", "exit_reason"],
  /** Exits that KVM_RUN came back with. */
  user: ["kvm/kvm_userspace_exit", "reason"],
  /** Port accesses, by port. */
  ports: ["kvm/kvm_pio", "port"],
} as const;

/** Counts by what the kernel calls the reason, or by port ("0x3f8"); each sorted, the most frequent first. */
export type ExitCounts = Readonly<Record<keyof typeof HISTOGRAMS, Readonly<Record<string, number>>>>;

/** What happens on this machine's KVM during `body`; `undefined`, and `body` run all the same, where it cannot be traced. */
export async function countExits(body: () => Promise<unknown>): Promise<ExitCounts | undefined> {
  const isTracing = mountTracing() && setTriggers("");
  try {
    await body();
    if (!isTracing) return undefined;
    const read = ([event, field]: readonly [string, string]): Record<string, number> =>
      parseHistogram(readFileSync(`${TRACING}/events/${event}/hist`, "utf8"), field);
    const { hardware, user, ports } = HISTOGRAMS;
    return { hardware: read(hardware), user: read(user), ports: read(ports) };
  } finally {
    if (isTracing) setTriggers("!");
  }
}

/** The kernel's table: `{ port:        1016 } hitcount:       5120`, symbols as `{ reason: KVM_EXIT_IO [ 2] }`. */
export function parseHistogram(text: string, field: string): Record<string, number> {
  const counts: [string, number][] = [];
  for (const line of text.split("\n")) {
    const entry = /^\{ *(\w+): *(.*?) *\} hitcount: *(\d+)/.exec(line);
    if (entry?.[1] === field) counts.push([entry[2]!, Number(entry[3])]);
  }
  return Object.fromEntries(counts.sort(([, a], [, b]) => b - a));
}

function mountTracing(): boolean {
  if (existsSync(`${TRACING}/events/kvm`)) return true;
  try {
    mkdirSync(TRACING, { recursive: true });
  } catch {
    // Where sysfs is mounted the directory is there.
  }
  spawnSync("mount", ["-t", "tracefs", "tracefs", TRACING], { stdio: "ignore" });
  return existsSync(`${TRACING}/events/kvm`);
}

/** Sets the histograms, or takes them away with "!"; false where the kernel has none. */
function setTriggers(sign: "" | "!"): boolean {
  try {
    for (const [event, field] of Object.values(HISTOGRAMS)) {
      const modifier = field === "port" ? ".hex" : "";
      writeFileSync(`${TRACING}/events/${event}/trigger`, `${sign}hist:keys=${field}${modifier}`);
    }
    return true;
  } catch {
    return false;
  }
}
