/**
 * Workers that are used again: a VM's threads go back to the pool when it closes. A Worker takes some 30 ms to start,
 * and koffi leaves three mappings (3 MiB of addresses) behind for each one that ends.
 */
import { Worker } from "node:worker_threads";

/** Idle Workers that are kept for each program; what is beyond ends. */
const IDLE_MAX = 16;

/** A program for Workers: JavaScript that takes jobs as messages, and answers each with a message when it is done. */
export interface WorkerProgram {
  readonly name: string;
  readonly source: string;
}

/** A job that runs in a Worker of its own. */
export interface WorkerJob {
  readonly worker: Worker;
  /** Resolves when the job is done, or its Worker ended. */
  readonly ended: Promise<void>;
}

const idle = new Map<WorkerProgram, Worker[]>();

/**
 * Starts a job. Its Worker does not keep the process; `worker.ref()` makes it.
 *
 * @param setup handed to a new Worker as `workerData`: the same for all jobs of the program.
 * @param onFailure told where the Worker ends before the job does.
 */
export function startJob(
  program: WorkerProgram,
  setup: unknown,
  data: unknown,
  onFailure: (cause: unknown) => void,
): WorkerJob {
  const { name, source } = program;
  const worker = takeIdle(program) ?? new Worker(source, { eval: true, workerData: setup, name });
  worker.unref();
  const ended = new Promise<void>((done) => {
    const finish = (): void => {
      worker.off("message", onDone);
      worker.off("error", onFailure);
      worker.off("exit", onExit);
      done();
    };
    const onDone = (): void => {
      finish();
      putBack(program, worker);
    };
    const onExit = (status: number): void => {
      onFailure(`it ended with status ${status}`);
      finish();
    };
    worker.on("message", onDone);
    worker.on("error", onFailure);
    worker.on("exit", onExit);
  });
  worker.postMessage(data);
  return { worker, ended };
}

function putBack(program: WorkerProgram, worker: Worker): void {
  worker.unref();
  const workers = idle.get(program) ?? [];
  idle.set(program, workers);
  if (workers.length >= IDLE_MAX) {
    void worker.terminate();
    return;
  }
  workers.push(worker);
}

/** An idle Worker; one that has ended meanwhile has no thread. */
function takeIdle(program: WorkerProgram): Worker | undefined {
  for (let worker = idle.get(program)?.pop(); worker !== undefined; worker = idle.get(program)?.pop()) {
    if (worker.threadId > 0) return worker;
  }
  return undefined;
}
