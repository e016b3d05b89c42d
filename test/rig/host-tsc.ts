/** The frequency of this host's time stamp counter, in Hz: an emulator that translates gives its guests the same. */
import { MAP, Native, PROT } from "../host-cpu/native.ts";

/** `rdtsc; shl rdx, 32; or rax, rdx; ret`. */
const READ_TSC = [0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, 0xc3];
const MEASURE_MS = 300;
const PAGE_BYTES = 4096;

/** @throws Error where the host is not x86-64 Linux, or koffi does not load. */
export async function measureTscHz(): Promise<number> {
  const native = Native.open();
  if (typeof native === "string") throw new Error(native);
  const prot = PROT.READ | PROT.WRITE | PROT.EXEC;
  const address = native.call("mmap", 0, PAGE_BYTES, prot, MAP.PRIVATE | MAP.ANONYMOUS, -1, 0);
  try {
    native.view(address, PAGE_BYTES).set(READ_TSC);
    const readTsc = native.function(address, "uint64_t readTsc()");
    const read = (): { tsc: number; ms: number } => ({ tsc: Number(readTsc()), ms: performance.now() });
    // The first call takes longer.
    read();
    const first = read();
    await new Promise((done) => setTimeout(done, MEASURE_MS));
    const last = read();
    return Math.round(((last.tsc - first.tsc) * 1000) / (last.ms - first.ms));
  } finally {
    native.call("munmap", address, PAGE_BYTES);
  }
}
