import { Uart16550 } from "@skep/chipset";
import { PciFunction } from "@skep/pci";
import type { Machine } from "skep";
import { expect, it } from "vitest";
import { GUEST_TIMEOUT_MS, GUESTS, runInGuest } from "./support/guests.ts";

const DEVICE = 6;
const LINES = Array.from({ length: 7 }, (_, i) => `line ${i + 1}`);
const REQUEST = "seven lines, please\n";

/** Line 2 of the four, at interrupt 18, is that of (device + INTA) mod 4. */
const COMMAND = `
cd /sys/bus/pci/devices/0000:00:06.0
cat vendor device class irq
tty=$(ls tty)
stty -F /dev/$tty raw -echo
exec 3<>/dev/$tty
echo "seven lines, please" >&3
for i in 1 2 3 4 5 6 7; do read line <&3; echo "$line"; done
sed -n "s/^ *18: *[1-9][0-9]* *//p" /proc/interrupts
`;

/** A serial port of class 07.00, which Linux's 8250_pci drives: it answers the request with the lines. */
function attachSerialPort(machine: Machine): void {
  const fn: PciFunction = new PciFunction({
    vendorId: 0x1b36,
    deviceId: 0x0002,
    classCode: 0x07_0002,
    subsystemVendorId: 0x1af4,
    subsystemId: 0x1100,
    interruptPin: 1,
    bars: [
      {
        index: 0,
        space: "io",
        bytes: 8,
        device: {
          read: (offset, size) => uart.read(offset, size),
          write: (offset, size, value) => uart.write(offset, size, value),
        },
      },
    ],
  });
  const answer = new TextEncoder().encode(LINES.map((line) => `${line}\n`).join(""));
  let heard = "";
  let sent = answer.length;
  const send = (): void => {
    sent += uart.receive(answer.subarray(sent));
  };
  const uart: Uart16550 = new Uart16550(machine.vm.clock, fn.intx, {
    onTransmit: (byte) => {
      heard += String.fromCharCode(byte);
      if (heard !== REQUEST) return;
      sent = 0;
      send();
    },
    onReceiveSpace: send,
  });
  machine.pc.pci.attach(fn, DEVICE);
  machine.vm.addPart("pci-uart", uart);
}

it(
  "Linux finds a function that an embedder puts on the bus, places its BAR and takes its interrupts",
  async (context) => {
    const { output, outcome } = await runInGuest(context, GUESTS[0]!, COMMAND, { prepare: attachSerialPort });
    const [vendor, device, classCode, irq, ...rest] = output.trimEnd().split("\n");
    expect([vendor, device, classCode, irq]).toEqual(["0x1b36", "0x0002", "0x070002", "18"]);
    expect(rest.slice(0, LINES.length)).toEqual(LINES);
    expect(rest[LINES.length]).toMatch(/IO-APIC +18-fasteoi +ttyS\d$/);
    expect(outcome).toEqual({ kind: "poweroff" });
  },
  GUEST_TIMEOUT_MS,
);
