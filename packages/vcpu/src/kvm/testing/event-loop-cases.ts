import { mkdtempSync, rmSync } from "node:fs";
import { connect, createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ConformanceError, expectEqual } from "../../testing/conformance/guest.ts";
import { hex } from "../../testing/conformance/layout.ts";
import type { VmOutcome } from "../../vm.ts";
import type { KvmCase } from "./case.ts";
import { APIC_GUEST, COUNTER_GUEST } from "./guests.ts";
import { type KvmMachine, withMachine } from "./machine.ts";

/** Enough of them for the event loop to be watched by a thread, where there is one for that. */
const ROUND_TRIPS = 60;
/** A round trip needs two turns; those of a busy and emulated host included. */
const ROUND_TRIP_MS = 150;

const sleep = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));

/** Sends a byte to a server of this process and waits for it to come back, again and again; the ms it took. */
async function echo(rounds: number): Promise<number> {
  const directory = mkdtempSync(join(tmpdir(), "skep-echo-"));
  const server: Server = createServer((socket) => socket.pipe(socket));
  try {
    const path = join(directory, "socket");
    await new Promise<void>((done) => server.listen(path, done));
    const socket = connect(path);
    const start = performance.now();
    for (let round = 0; round < rounds; round++) {
      const heard = new Promise((done) => socket.once("data", done));
      socket.write("x");
      await heard;
    }
    socket.destroy();
    return performance.now() - start;
  } finally {
    server.close();
    rmSync(directory, { recursive: true });
  }
}

async function expectEcho(): Promise<void> {
  const ms = await echo(ROUND_TRIPS);
  if (ms > ROUND_TRIPS * ROUND_TRIP_MS) {
    throw new ConformanceError(`${ROUND_TRIPS} round trips took ${ms.toFixed(0)} ms`);
  }
}

/** Starts a guest that halts with interrupts on, and waits until it is about to. */
async function startHalting(m: KvmMachine): Promise<{ readonly run: Promise<VmOutcome> }> {
  m.start("protected", APIC_GUEST);
  const ready = new Promise<void>((done) => {
    m.onOutput = () => done();
  });
  const run = m.vm.run();
  await ready;
  return { run };
}

/** Waits for a guest's HLT, of 2 ms each. */
const HALT_TRIES = 500;

/** Pauses once the guest has come to its HLT, which it is let go on to as long as it has not. */
async function pauseHalted(m: KvmMachine): Promise<void> {
  for (let tries = 0; tries < HALT_TRIES; tries++) {
    await sleep(2);
    await m.vm.pause();
    if (m.state.activity === "halted") return;
    m.vm.resume();
  }
  throw new ConformanceError("the guest does not halt");
}

/** The event loop goes on while the guest computes or halts, whichever thread that does it on. */
export const eventLoopCases: readonly KvmCase[] = [
  {
    name: "sockets are served while the guest computes",
    run: ({ engine }) =>
      withMachine(engine(), {}, async (m) => {
        m.start("real", COUNTER_GUEST);
        const run = m.vm.run();
        await m.changed(0x3000, 0);
        await expectEcho();
        const before = m.memory.dma.readU32(0x3000)!;
        await m.changed(0x3000, before);
        await m.vm.stop();
        expectEqual("outcome", (await run).kind, "stopped");
      }),
  },
  {
    name: "sockets are served, and timers come in time, while the guest halts",
    run: ({ engine }) =>
      withMachine(engine(), { haltedForever: "wait" }, async (m) => {
        const { run } = await startHalting(m);
        await expectEcho();
        for (let round = 0; round < 10; round++) {
          const start = performance.now();
          await sleep(10);
          const ms = performance.now() - start;
          if (ms > 10 + ROUND_TRIP_MS) throw new ConformanceError(`10 ms took ${ms.toFixed(0)}`);
        }
        await m.vm.stop();
        expectEqual("outcome", (await run).kind, "stopped");
      }),
  },
  {
    name: "a guest that halts is paused, gone on with and stopped",
    run: ({ engine }) =>
      withMachine(engine(), {}, async (m) => {
        const { run } = await startHalting(m);
        for (let round = 0; round < 5; round++) {
          await pauseHalted(m);
          m.vm.resume();
        }
        await m.vm.stop();
        expectEqual("outcome", (await run).kind, "stopped");
      }),
  },
  {
    name: "what an answered exit began goes on while the guest computes",
    run: ({ engine }) =>
      withMachine(engine(), {}, async (m) => {
        m.start(
          "real",
          hex`
          ; bits 16, at 0x8000
          e6 e9 ; out 0xe9, al
          eb fe ; jmp $
        `,
        );
        const steps: string[] = [];
        m.onOutput = async () => {
          await Promise.resolve();
          steps.push("promise");
          await new Promise<void>((done) => process.nextTick(done));
          steps.push("tick");
          await new Promise((done) => setImmediate(done));
          steps.push("immediate");
          await sleep(1);
          m.vm.powerOff();
        };
        expectEqual("outcome", (await m.run()).kind, "poweroff");
        expectEqual("steps", steps, ["promise", "tick", "immediate"]);
      }),
  },
  {
    name: "two VMs that compute share the time, with the event loop between them",
    run: ({ engine }) =>
      withMachine(engine(), {}, (first) =>
        withMachine(engine(), {}, async (second) => {
          const machines = [first, second];
          for (const m of machines) m.start("real", COUNTER_GUEST);
          const runs = machines.map((m) => m.vm.run());
          await Promise.all(machines.map((m) => m.changed(0x3000, 0)));
          for (let round = 0; round < 3; round++) {
            const before = machines.map((m) => m.memory.dma.readU32(0x3000)!);
            await sleep(50);
            await Promise.all(machines.map((m, i) => m.changed(0x3000, before[i]!)));
          }
          await Promise.all(machines.map((m) => m.vm.stop()));
          const outcomes = (await Promise.all(runs)).map(({ kind }) => kind);
          expectEqual("outcomes", outcomes, ["stopped", "stopped"]);
        }),
      ),
  },
];
