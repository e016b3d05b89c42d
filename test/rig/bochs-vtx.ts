import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { copyFile, mkdir, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { hostLacks, type RigMachine, type RigMedia } from "./machine.ts";

const runFile = promisify(execFile);

/** Debian's packages by a file of theirs. */
const NEEDS: readonly [file: string, packageName: string][] = [
  ["/usr/bin/bochs", "bochs"],
  ["/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_term_gui.so", "bochs-term"],
  ["/usr/share/bochs/BIOS-bochs-latest", "bochsbios"],
  ["/usr/share/vgabios/vgabios-stdvga.bin", "vgabios"],
  ["/usr/bin/grub-mkrescue", "grub-common"],
  ["/usr/lib/grub/i386-pc/boot.img", "grub-pc-bin"],
  ["/usr/bin/xorriso", "xorriso"],
  ["/usr/bin/mformat", "mtools"],
];

const MEMORY_MIB = 1024;
/** Instructions that are one second of the guest's devices; about what a host manages in one of its own. */
const IPS = 40_000_000;

/** Bochs, which interprets a processor with Intel's VT-x, EPT and unrestricted guests: Linux's kvm-intel runs on it. */
export const bochsVtx: RigMachine = {
  name: "vtx",
  title: "kvm-intel on Bochs, which emulates VT-x",
  modules: ["irqbypass.ko", "kvm.ko", "kvm-intel.ko"],
  // The processor says in CPUID that its TSC runs at 3.5 GHz, but it counts instructions: by that clock the guest's time
  // passes ninety times slower than its devices'.
  kernelOptions: [`tsc_early_khz=${IPS / 1000}`],
  // Its only display without windows or a network port is a terminal that it makes itself.
  screen: /connected to screen "([^"]+)"/,
  missing: () => {
    const reason = hostLacks();
    if (reason !== undefined) return reason;
    const packages = NEEDS.filter(([file]) => !existsSync(file)).map(([, name]) => name);
    return packages.length === 0 ? undefined : `Debian's packages are not installed: ${packages.join(", ")}`;
  },
  prepare: async (media) => {
    const image = await makeImage(media);
    const configuration = join(media.directory, "bochsrc");
    await writeFile(configuration, bochsrc(media, image));
    // Debian's Bochs is the debugger's build: it waits for a command before the first instruction.
    const commands = join(media.directory, "commands");
    await writeFile(commands, "c\n");
    return ["bochs", "-q", "-f", configuration, "-rc", commands];
  },
};

/** A CD image that GRUB boots the kernel from; takes the initramfs away. */
async function makeImage({ kernel, initrd, commandLine, directory }: RigMedia): Promise<string> {
  const tree = join(directory, "cd");
  await mkdir(join(tree, "boot/grub"), { recursive: true });
  await copyFile(kernel, join(tree, "boot/vmlinuz"));
  await rename(initrd, join(tree, "boot/initramfs"));
  const script = `linux /boot/vmlinuz ${commandLine}\ninitrd /boot/initramfs\nboot\n`;
  await writeFile(join(tree, "boot/grub/grub.cfg"), script);
  const image = join(directory, "cd.iso");
  await runFile("grub-mkrescue", ["--directory=/usr/lib/grub/i386-pc", "-o", image, tree]);
  return image;
}

function bochsrc({ console, channel, directory }: RigMedia, image: string): string {
  return [
    // The newest model whose XSAVE Linux believes: with AVX-512 the sizes in CPUID contradict each other.
    `cpu: model=broadwell_ult, count=1, ips=${IPS}, reset_on_triple_fault=0`,
    `memory: guest=${MEMORY_MIB}, host=${MEMORY_MIB}`,
    "romimage: file=/usr/share/bochs/BIOS-bochs-latest",
    "vgaromimage: file=/usr/share/vgabios/vgabios-stdvga.bin",
    "boot: cdrom",
    `ata0-master: type=cdrom, path=${image}, status=inserted`,
    `com1: enabled=1, mode=file, dev=${console}`,
    `com2: enabled=1, mode=file, dev=${channel}`,
    "clock: sync=none, time0=utc",
    "display_library: term",
    `log: ${join(directory, "log")}`,
    "panic: action=fatal",
    // It reports each VM exit and each MSR that it does not know.
    "error: action=ignore",
    "info: action=ignore",
    "debug: action=ignore",
    "",
  ].join("\n");
}
