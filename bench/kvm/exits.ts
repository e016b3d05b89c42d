/** What an exit costs: a guest that writes a port for ever, run by the engine, and by a C loop that only looks at it. */
import { spawn, spawnSync } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { Engine } from "@skep/vcpu";
import { createExitMachine, PORT, type VcpuPlace } from "./exit-machine.ts";

/** Exits and the nanoseconds that they took together. */
export interface ExitRound {
  readonly exits: number;
  readonly ns: number;
}

/** Somebody who makes a guest exit. */
export interface ExitRunner {
  /** Makes the guest write its port `exits` times. */
  round(exits: number): Promise<ExitRound>;
  close(): Promise<void>;
}

/** again: out PORT, al; jmp again */
const OUT_GUEST = Uint8Array.of(0xe6, PORT, 0xeb, 0xfc);

/** The engine and all that answers an exit: run loop, dispatcher, port bus, device. */
export async function engineRunner(engine: Engine, place: VcpuPlace): Promise<ExitRunner> {
  let writes = 0;
  let last = 0;
  let start = 0n;
  let onLast = (_end: bigint): void => {};
  const write = (): void => {
    // The first is the one before: a round lasts from one exit's answer to another's.
    if (writes === 0) start = process.hrtime.bigint();
    else if (writes === last) onLast(process.hrtime.bigint());
    writes++;
  };
  const { vm } = await createExitMachine(engine, place, {
    code: OUT_GUEST,
    device: { read: () => 0xff, write },
  });
  return {
    round: (exits) =>
      new Promise((resolve, reject) => {
        writes = 0;
        last = exits;
        onLast = (end) => {
          vm.pause().then(() => resolve({ exits: writes - 1, ns: Number(end - start) }), reject);
        };
        if (vm.state === "paused") vm.resume();
        else vm.run().catch(reject);
      }),
    close: () => vm.close(),
  };
}

/** The compiler, or why there is none. */
export function compileExitLoop(output: string): string | undefined {
  const source = fileURLToPath(new URL("exit-loop.c", import.meta.url));
  const { error, status, stderr } = spawnSync("cc", ["-O2", "-o", output, source], { encoding: "utf8" });
  if (error) return `no C compiler: cc: ${error.message}`;
  return status === 0 ? undefined : `cc ended with status ${status}: ${stderr.trim()}`;
}

/** The compiled exit-loop.c as a process, which waits where it is not asked. */
export function exitLoopRunner(program: string): ExitRunner {
  const child = spawn(program, [], { stdio: ["pipe", "pipe", "inherit"] });
  const ended = new Promise<void>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", () => resolve());
  });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return {
    round: async (exits) => {
      child.stdin.write(`${exits}\n`);
      const { value, done } = await lines.next();
      const counted = /^(\d+) (\d+)$/.exec(done ? "" : value);
      if (!counted)
        throw new Error(`${program}: expected exits and nanoseconds, got ${done ? "its end" : value}`);
      return { exits: Number(counted[1]), ns: Number(counted[2]) };
    },
    close: () => {
      child.stdin.end();
      return ended;
    },
  };
}
