import { existsSync } from "node:fs";
import { hostLacks, type RigMachine } from "./machine.ts";

const QEMU = "/usr/bin/qemu-system-x86_64";
const MEMORY = "2G";

/** QEMU's translator, which emulates AMD's SVM with nested paging: Linux's kvm-amd runs on it. */
export const qemuSvm: RigMachine = {
  name: "svm",
  title: "kvm-amd on QEMU's translator (TCG), which emulates SVM",
  modules: ["irqbypass.ko", "kvm.ko", "kvm-amd.ko"],
  kernelOptions: [],
  missing: () =>
    hostLacks() ?? (existsSync(QEMU) ? undefined : "Debian's package qemu-system-x86 is not installed"),
  // One processor. With two and a host thread for each, code that V8 patches while the other processor runs it went astray
  // in one run of two; with two on one host thread, who waits for the other may wait for its time slice of 0.1 s.
  prepare: async ({ kernel, initrd, commandLine, console, channel, mail }) => [
    QEMU,
    ...["-accel", "tcg", "-cpu", "max,+svm,+npt", "-smp", "1", "-m", MEMORY],
    ...["-kernel", kernel, "-initrd", initrd, "-append", commandLine],
    ...["-nodefaults", "-no-reboot", "-display", "none"],
    ...[console, channel, mail].flatMap((path) => ["-serial", `file:${path}`]),
  ],
};
