// One run of the bench guest on v86: node v86-machine.mjs KERNEL INITRD MEMORY_MIB COMMAND_LINE.
// The guest's serial console is stdout; the firmware is Debian's SeaBIOS.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { V86 } from "v86";

const [kernel, initrd, memoryMiB, commandLine] = process.argv.slice(2);
const buffer = (path) => {
  const bytes = readFileSync(path);
  return { buffer: bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength) };
};
const emulator = new V86({
  wasm_path: fileURLToPath(new URL("../node_modules/v86/build/v86.wasm", import.meta.url)),
  bios: buffer("/usr/share/seabios/bios.bin"),
  vga_bios: buffer("/usr/share/seabios/vgabios-stdvga.bin"),
  bzimage: buffer(kernel),
  initrd: buffer(initrd),
  cmdline: commandLine,
  memory_size: Number(memoryMiB) * 2 ** 20,
  vga_memory_size: 2 ** 21,
  autostart: true,
});
let line = "";
emulator.add_listener("serial0-output-byte", (byte) => {
  const char = String.fromCharCode(byte);
  line += char;
  if (char !== "\n") return;
  process.stdout.write(line);
  // v86 has no ACPI power-off that would end this process.
  if (line.startsWith("@@ done")) setTimeout(() => process.exit(0), 50);
  line = "";
});
