/**
 * Debian's kernel, booted by our plan on a machine that is not ours: QEMU without firmware, our bytes loaded where
 * the plan says, and a reset vector that does no more than put the processor where `applyTo` would. Linux then reads
 * our memory map and tables, runs our /init, and switches off by our \_S5.
 *
 * Uses the files that `skep` keeps in its cache (or SKEP_TEST_KERNEL, SKEP_TEST_BUSYBOX).
 */
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import type { VcpuStateV1 } from "@skep/vcpu";
import { describe, expect, it } from "vitest";
import {
  buildAcpi,
  busyboxInitramfs,
  COM1,
  COM2,
  ExecOutputParser,
  execCommandLine,
  type LinuxEntry,
  pcMemoryMap,
  planLinuxBoot,
} from "../src/index.ts";
import { resetState } from "./guest.ts";
import { inTemporaryDirectory, missing } from "./host-tools.ts";

const cache = join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "skep", "debian");
const kernelPath = process.env.SKEP_TEST_KERNEL || join(cache, "linux-image-cloud-amd64", "vmlinuz");
const busyboxPath = process.env.SKEP_TEST_BUSYBOX || join(cache, "busybox-static", "busybox");
const noFile = [kernelPath, busyboxPath].find((path) => !existsSync(path));
const skipped =
  missing("qemu-system-x86_64", ["--version"]) ??
  (noFile && `${noFile} is not there: skep fetches it on first use`);

const BOOT_TIMEOUT_MS = 150_000;

/** A ROM of 64 KiB whose reset vector loads `state`, by hand-written machine code for real mode. */
function resetRom(state: VcpuStateV1): Uint8Array {
  const rom = new Uint8Array(0x10000);
  let at = 0;
  const emit = (...bytes: number[]): void => {
    rom.set(bytes, at);
    at += bytes.length;
  };
  const le32 = (value: number | bigint): number[] => {
    const v = Number(value) >>> 0;
    return [v & 0xff, (v >>> 8) & 0xff, (v >>> 16) & 0xff, v >>> 24];
  };
  const movEax = (value: number | bigint): void => emit(0x66, 0xb8, ...le32(value));
  const outEax = (port: number): void => emit(0xba, port & 0xff, port >> 8, 0x66, 0xef);
  const writePci = (address: number, value: number): void => {
    movEax(address);
    outEax(0xcf8);
    movEax(value);
    outEax(0xcfc);
  };
  const GDT_POINTER = 0x400;

  emit(0xfa); // cli
  // PIIX4's power management, which firmware would have placed: function 1.3, PMBA 0x600, enabled.
  writePci(0x80000b40, 0x601);
  writePci(0x80000b80, 1);
  emit(0x2e, 0x66, 0x0f, 0x01, 0x16, GDT_POINTER & 0xff, GDT_POINTER >> 8); // lgdt cs:[…]
  if (state.cr4 !== 0n) {
    movEax(state.cr4);
    emit(0x0f, 0x22, 0xe0); // mov cr4, eax
    movEax(state.cr3);
    emit(0x0f, 0x22, 0xd8); // mov cr3, eax
    emit(0x66, 0xb9, ...le32(0xc0000080)); // mov ecx, IA32_EFER
    movEax((state.msrs.c0000080 ?? 0n) & 0x100n); // LMA follows by itself
    emit(0x66, 0x31, 0xd2, 0x0f, 0x30); // xor edx, edx; wrmsr
  }
  movEax(state.cr0);
  emit(0x0f, 0x22, 0xc0); // mov cr0, eax
  emit(0xb8, state.ds.selector, 0); // mov ax, …
  emit(0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0x8e, 0xe0, 0x8e, 0xe8); // mov ds, es, ss, fs, gs
  emit(0x66, 0xbe, ...le32(state.gpr[6] ?? 0n)); // mov esi
  emit(0x66, 0xbb, ...le32(state.gpr[3] ?? 0n)); // mov ebx
  emit(0x66, 0x31, 0xed, 0x66, 0x31, 0xff); // xor ebp, ebp; xor edi, edi
  emit(0x66, 0xea, ...le32(state.rip), state.cs.selector, 0); // jmp far
  at = GDT_POINTER;
  emit(state.gdtr.limit & 0xff, state.gdtr.limit >> 8, ...le32(state.gdtr.base));
  at = 0xfff0;
  emit(0xe9, 0x0d, 0x00); // jmp to offset 0, from 0xfff3
  return rom;
}

function boot(entry: LinuxEntry): { console: string; output: string; code: number | undefined } {
  return inTemporaryDirectory((directory) => {
    const map = pcMemoryMap(256 << 20);
    const acpi = buildAcpi({ cpus: 2, region: map.acpi, platform: { serialPorts: [COM1, COM2] } });
    const command =
      "uname -s\nnproc\ncat /proc/cmdline\nls /sys/bus/acpi/devices\nprintf '\\001\\377'\nsleep 1000 &\nexit 42\n";
    const nonce = "0a1b2c3d";
    const plan = planLinuxBoot({
      kernel: readFileSync(kernelPath),
      initrd: busyboxInitramfs({ busybox: readFileSync(busyboxPath), command }),
      commandLine: `console=ttyS0 ${execCommandLine({ nonce })}`,
      memoryMap: map.entries,
      rsdp: acpi.rsdp,
      rngSeed: new Uint8Array(32).fill(1),
      entry,
    });
    const state = resetState();
    plan.applyTo(state);
    writeFileSync(join(directory, "rom"), resetRom(state));
    const args = ["-machine", "pc,accel=tcg", "-m", "256", "-smp", "2", "-bios", "rom", "-nodefaults"];
    args.push("-display", "none", "-no-reboot", "-serial", "file:com1", "-serial", "file:com2");
    for (const [i, { address, bytes }] of [...acpi.writes, ...plan.writes].entries()) {
      writeFileSync(join(directory, `${i}`), bytes);
      args.push("-device", `loader,file=${i},addr=0x${address.toString(16)},force-raw=on`);
    }
    const qemu = spawnSync("qemu-system-x86_64", args, {
      cwd: directory,
      timeout: BOOT_TIMEOUT_MS,
      encoding: "utf8",
    });
    if (qemu.status !== 0)
      throw new Error(`QEMU did not end well: ${qemu.signal ?? qemu.status} ${qemu.stderr}`);
    const output: Uint8Array[] = [];
    const parser = new ExecOutputParser(nonce, { output: (bytes) => output.push(bytes.slice()) });
    parser.push(readFileSync(join(directory, "com2")));
    parser.close();
    const console = readFileSync(join(directory, "com1"), "latin1");
    return { console, output: Buffer.concat(output).toString("latin1"), code: parser.exitCode };
  });
}

describe(skipped ? `Linux on QEMU (skipped: ${skipped})` : "Linux on QEMU", () => {
  it.skipIf(skipped).each<LinuxEntry>(["bzimage64", "bzimage32"])(
    "starts by the %s entry, runs a command and switches itself off",
    (entry) => {
      const { console, output, code } = boot(entry);
      expect(code, console).toBe(42);
      const lines = output.split("\n");
      expect(lines.slice(0, 2)).toEqual(["Linux", "2"]);
      expect(lines[2]).toContain("console=ttyS0 skep.channel=ttyS1");
      for (const device of ["ACPI0007:01", "PNP0501:01", "PNP0B00:00", "PNP0103:00", "LNXPWRBN:00"]) {
        expect(lines).toContain(device);
      }
      expect(output.endsWith("\u0001\u00ff")).toBe(true);
      expect(console).toContain("reboot: Power down");
      expect(console).toContain("random: crng init done");
      expect(console).not.toMatch(/ACPI (BIOS )?(Error|Warning)|\[Firmware (Bug|Warn)\]|Call Trace/);
    },
    BOOT_TIMEOUT_MS + 10_000,
  );
});
