import type { DebianFiles } from "skep/node";

/** The kernel and its modules, which all rigs take from the same package. */
export type RigKernel = DebianFiles<"vmlinuz" | "irqbypass.ko" | "kvm.ko" | "kvm-amd.ko" | "kvm-intel.ko">;

export interface RigMedia {
  /** Absolute paths. */
  readonly kernel: string;
  readonly initrd: string;
  readonly commandLine: string;
  /** A directory for whatever the machine needs besides; gone after the run. */
  readonly directory: string;
  /** Where the bytes that the guest sends by its first and second serial port go. */
  readonly console: string;
  readonly channel: string;
  /** The same for a third one, where the machine has it. */
  readonly mail: string;
}

/** Why no rig can run on this host, or `undefined`: its Node and libraries are what runs inside. */
export function hostLacks(): string | undefined {
  const host = `${process.platform} on ${process.arch}`;
  return host === "linux on x64" ? undefined : `the host is ${host}, not linux on x64`;
}

/** An emulator whose processor has what a hypervisor needs, at least as far as Linux's KVM asks. */
export interface RigMachine {
  readonly name: "svm" | "vtx";
  /** For a person: what runs what. */
  readonly title: string;
  /** Modules of the kernel's package, in loading order. */
  readonly modules: readonly (keyof RigKernel["paths"])[];
  /** Added to the kernel's command line. */
  readonly kernelOptions: readonly string[];
  /** Why it cannot run here, or `undefined` where it can. */
  missing(): string | undefined;
  /** How the emulator says, in what it prints, which terminal it draws on: it blocks unless somebody reads there. */
  readonly screen?: RegExp;
  /** Makes what the machine boots from; gives the command that runs it until the guest powers off. */
  prepare(media: RigMedia): Promise<readonly [command: string, ...args: string[]]>;
}
