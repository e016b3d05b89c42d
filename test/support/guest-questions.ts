import { createHash } from "node:crypto";

/** What a guest is asked, as a shell script for busybox; its exit code is `QUESTIONS_EXIT_CODE`. */
export const QUESTIONS = `
grep -c ^processor /proc/cpuinfo
seq 1 20000 >/tmp/numbers
sha256sum </tmp/numbers
gzip -c /tmp/numbers >/tmp/numbers.gz && gunzip -c /tmp/numbers.gz | sha256sum
sort /tmp/numbers | sha256sum
awk 'BEGIN { for (i = 1; i <= 20; i++) printf "%.12g %.12g %.12g\\n", i / 7, i * 1.1 - 0.3, 1 / (i * i) }'
i=0; while [ $i -lt 100 ]; do /bin/busybox true || exit 9; i=$((i + 1)); done; echo forks $i
uname -m
exit 7
`;
export const QUESTIONS_EXIT_CODE = 7;

/** What the host computes for itself. */
export function answers(guest: { readonly machine: string; readonly cpus: number }): string {
  const numbers = Array.from({ length: 20_000 }, (_, index) => `${index + 1}`);
  const digest = (lines: string[]): string =>
    `${createHash("sha256")
      .update(lines.map((line) => `${line}\n`).join(""))
      .digest("hex")}  -\n`;
  // C's %.12g for numbers in this range: twelve significant digits without trailing zeros.
  const general = (value: number): string => String(Number(value.toPrecision(12)));
  const floats = Array.from({ length: 20 }, (_, index) => index + 1)
    .map((i) => [i / 7, i * 1.1 - 0.3, 1 / (i * i)].map(general).join(" "))
    .map((line) => `${line}\n`);
  const plain = digest(numbers);
  const computed = `${plain}${plain}${digest([...numbers].sort())}${floats.join("")}forks 100\n`;
  return `${guest.cpus}\n${computed}${guest.machine}\n`;
}
