/** Maximal runs [start, end) in which `a` and `b`, of one length, differ. Equal stretches are skipped natively. */
export function differingRuns(a: Uint8Array, b: Uint8Array): [number, number][] {
  const CHUNK = 1024;
  const [x, y] = [a, b].map((bytes) => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)) as [
    Buffer,
    Buffer,
  ];
  const runs: [number, number][] = [];
  let start = -1;
  for (let chunk = 0; chunk < x.length; chunk += CHUNK) {
    const end = Math.min(chunk + CHUNK, x.length);
    if (start < 0 && x.compare(y, chunk, end, chunk, end) === 0) continue;
    for (let i = chunk; i < end; i++) {
      if (x[i] !== y[i]) {
        if (start < 0) start = i;
      } else if (start >= 0) {
        runs.push([start, i]);
        start = -1;
      }
    }
  }
  if (start >= 0) runs.push([start, x.length]);
  return runs;
}
