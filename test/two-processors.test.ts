import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import { GUEST_TIMEOUT_MS, GUESTS, runInGuest } from "./support/guests.ts";

/**
 * What the guest is asked. Field 39 of /proc/self/stat is the processor that the process runs on (proc(5)): work that
 * is pinned to one says where it really was. The exchange has each processor wake the other by an interrupt for every
 * step; taking processor 1 down parks it in HLT, and bringing it up again is INIT and SIPI for one that ran before.
 */
const QUESTIONS = `
grep -c ^processor /proc/cpuinfo
nproc
cat /sys/devices/system/cpu/online
where='{ print "on processor", $39 }'
taskset 1 sh -c "seq 1 20000 | sha256sum; awk '$where' /proc/self/stat" >/tmp/first &
taskset 2 sh -c "seq 1 20000 | sort | gzip -c | gunzip -c | sha256sum; awk '$where' /proc/self/stat" >/tmp/second &
wait
cat /tmp/first /tmp/second
mkfifo /tmp/there /tmp/back
taskset 2 sh -c 'while read n; do echo $((n + 1)); done </tmp/there >/tmp/back' &
taskset 1 sh -c 'exec 3>/tmp/there 4</tmp/back; n=0; while [ $n -lt 300 ]; do echo $n >&3; read n <&4; done; echo $n'
wait
awk '
  /LOC:/ { print "timer", ($2 > 0), ($3 > 0) }
  /RES:|CAL:/ { first += $2; second += $3 }
  END { print "ipi", (first > 0), (second > 0) }' /proc/interrupts
echo 0 >/sys/devices/system/cpu/cpu1/online; nproc
echo 1 >/sys/devices/system/cpu/cpu1/online; nproc
taskset 2 sh -c "seq 1 20000 | sha256sum; awk '$where' /proc/self/stat"
`;

/** Lines of level 4 (warning) or worse: whatever the kernel complains about is our hardware. */
const LOG = `
[ "$(dmesg | wc -l)" -gt 200 ] && echo a whole log
dmesg -r | grep '^<[0-4]>'
exit 0
`;

function answers(): string {
  const numbers = Array.from({ length: 20_000 }, (_, index) => `${index + 1}`);
  const digest = (lines: string[]): string =>
    `${createHash("sha256")
      .update(lines.map((line) => `${line}\n`).join(""))
      .digest("hex")}  -`;
  const plain = digest(numbers);
  const lines = [
    ...["2", "2", "0-1"],
    ...[plain, "on processor 0", digest(numbers.sort()), "on processor 1"],
    ...["300", "timer 1 1", "ipi 1 1"],
    ...["1", "2", plain, "on processor 1"],
  ];
  return lines.map((line) => `${line}\n`).join("");
}

// Time by instructions: of a host that has others to serve, Linux says that it "Lost 2 RTC interrupts".
describe.each(GUESTS)("Debian's %s on two vCPUs", (...guest) => {
  it(
    "works on both, computes as the host does, has nothing to complain of and powers off",
    async (context) => {
      const options = { cpus: 2, clock: "instructions" } as const;
      const { output, exitCode, outcome } = await runInGuest(context, guest, QUESTIONS + LOG, options);
      expect(output).toBe(`${answers()}a whole log\n`);
      expect(exitCode).toBe(0);
      expect(outcome).toEqual({ kind: "poweroff" });
    },
    GUEST_TIMEOUT_MS,
  );
});

it(
  "two vCPUs share the host's time too",
  async (context) => {
    const { output, outcome } = await runInGuest(context, GUESTS[0]!, QUESTIONS, { cpus: 2 });
    expect(output).toBe(answers());
    expect(outcome).toEqual({ kind: "poweroff" });
  },
  GUEST_TIMEOUT_MS,
);
