import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { createSoftvtEngine } from "@skep/softvt";
import type { EngineProbe } from "@skep/vcpu";
import { ExitStatus } from "./status.ts";
import { Arguments } from "./usage.ts";

const HELP = `skep doctor

Says which engines this machine can use, and why not the others.
`;

/** `skep doctor`: status 0 where at least one engine can be used, else 1. */
export async function doctor(argv: readonly string[]): Promise<number> {
  const args = new Arguments(argv, { help: { type: "boolean", short: "h" } });
  if (args.flag("help")) {
    process.stdout.write(HELP);
    return ExitStatus.OK;
  }
  process.stdout.write(`Node ${process.version} on ${process.platform} ${process.arch}\n`);
  const engines: [string, EngineProbe][] = [
    ["kvm", await probeKvm()],
    ["softvt", await createSoftvtEngine().probe()],
  ];
  for (const [name, { usable, evidence }] of engines) {
    process.stdout.write(`${name.padEnd(8)}${usable ? "usable    " : "not usable"}  ${evidence}\n`);
  }
  return engines.some(([, { usable }]) => usable) ? ExitStatus.OK : ExitStatus.HOST_FAILURE;
}

/** What can be said of KVM before its engine is built: whether the device would let us in. */
async function probeKvm(): Promise<EngineProbe> {
  const device =
    process.platform === "linux" ? await tryKvmDevice() : `this is ${process.platform}, not Linux`;
  return { usable: false, evidence: `skep has no KVM engine yet; ${device}` };
}

async function tryKvmDevice(): Promise<string> {
  try {
    const file = await open("/dev/kvm", constants.O_RDWR);
    await file.close();
    return "/dev/kvm opens, so it may serve once there is one";
  } catch (error) {
    const code = error instanceof Error && "code" in error ? String(error.code) : String(error);
    const advice: Record<string, string> = {
      ENOENT: "there is no /dev/kvm: virtualization is off, or this is a guest or container without it",
      EACCES: "/dev/kvm may not be opened by this user: join its group (usually kvm)",
      ENODEV: "/dev/kvm is there without a module behind it",
      EPERM: "/dev/kvm may not be opened in this container",
    };
    return advice[code] ?? `/dev/kvm cannot be opened: ${code}`;
  }
}
