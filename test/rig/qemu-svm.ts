import { existsSync } from "node:fs";
import type { RigMachine } from "./machine.ts";

const QEMU = "/usr/bin/qemu-system-x86_64";
const MEMORY = "2G";

/** QEMU's translator, which emulates AMD's SVM with nested paging: Linux's kvm-amd runs on it. */
export const qemuSvm: RigMachine = {
  name: "svm",
  title: "kvm-amd on QEMU's translator (TCG), which emulates SVM",
  modules: ["irqbypass.ko", "kvm.ko", "kvm-amd.ko"],
  nodeOptions: [],
  kernelOptions: [],
  missing: () => (existsSync(QEMU) ? undefined : "Debian's package qemu-system-x86 is not installed"),
  // One host thread for both processors: with a thread for each, code that V8 patches while the other processor runs it
  // went astray in one run of two.
  prepare: async ({ kernel, initrd, commandLine, console, channel }) => [
    QEMU,
    ...["-accel", "tcg,thread=single", "-cpu", "max,+svm,+npt", "-smp", "2", "-m", MEMORY],
    ...["-kernel", kernel, "-initrd", initrd, "-append", commandLine],
    ...["-nodefaults", "-no-reboot", "-display", "none"],
    ...["-serial", `file:${console}`, "-serial", `file:${channel}`],
  ],
};
