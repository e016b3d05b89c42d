import {
  A20Gate,
  AcpiPm,
  Hpet,
  I8042,
  Irq,
  IrqChip,
  Mmio,
  Pit8254,
  Port,
  Port61,
  Port92,
  Ps2Keyboard,
  Ps2Mouse,
  ResetControl,
  RtcCmos,
  Uart16550,
} from "@skep/chipset";
import { FakeClock } from "@skep/chipset/testing";
import { PortSpace } from "@skep/memory";
import { describe, expect, it } from "vitest";

/** The chips on a board, as an embedder wires them, seen through the port space and the interrupt controllers. */
function board() {
  const clock = new FakeClock();
  const irqchip = new IrqChip(clock, { vcpus: 1 });
  irqchip.connect({ wake: () => {}, nmi: () => {}, init: () => {}, startup: () => {} });
  const ports = new PortSpace();
  const sent: number[] = [];
  const resets: string[] = [];
  const onReset = (kind: string): void => void resets.push(kind);

  const inputs = Array.from({ length: 24 }, (_, input) => (input >= 16 ? irqchip.line(input) : undefined));
  const hpet = new Hpet(clock, {
    inputs,
    irq0: irqchip.isaLine(Irq.PIT),
    irq8: irqchip.isaLine(Irq.RTC),
    msi: irqchip,
  });
  const pit = new Pit8254(clock, hpet.pitInput);
  const a20 = new A20Gate();
  const lines = { keyboard: irqchip.isaLine(Irq.KEYBOARD), mouse: irqchip.isaLine(Irq.MOUSE) };
  const kbc = new I8042(lines, a20, { keyboard: new Ps2Keyboard(), mouse: new Ps2Mouse(), onReset });
  const pm = new AcpiPm(clock, irqchip.isaLine(Irq.SCI));
  const uart = new Uart16550(clock, irqchip.isaLine(Irq.COM1), { onTransmit: (byte) => sent.push(byte) });
  for (const [range, device] of [
    [Port.PIC_MASTER, irqchip.pic.master],
    [Port.PIC_SLAVE, irqchip.pic.slave],
    [Port.ELCR, irqchip.pic.elcr],
    [Port.PIT, pit],
    [Port.SYSTEM_CONTROL_B, new Port61(clock, pit)],
    [Port.I8042_DATA, kbc.data],
    [Port.I8042_COMMAND, kbc.command],
    [Port.RTC, new RtcCmos(clock, hpet.rtcInput)],
    [Port.SYSTEM_CONTROL_A, new Port92(a20, onReset)],
    [Port.SMI, pm.smiCommand],
    [Port.COM1, uart],
    [Port.ACPI_PM, pm],
    [Port.PCI_CONFIG_ADDRESS, new ResetControl(onReset)],
  ] as const) {
    ports.add(range.base, range.bytes, device, `ports from 0x${range.base.toString(16)}`);
  }
  const out = (port: number, value: number): void => ports.write(port, 1, value);
  const inb = (port: number): number => ports.read(port, 1);
  /** 8259s with vectors 0x30 to 0x3F, everything unmasked, as Linux's init_8259A leaves them. */
  const startPics = (): void => {
    for (const [command, base, cascade] of [
      [0x20, 0x30, 4],
      [0xa0, 0x38, 2],
    ] as const) {
      out(command, 0x11);
      out(command + 1, base);
      out(command + 1, cascade);
      out(command + 1, 1);
      out(command + 1, 0);
    }
  };
  const endOfInterrupt = (vector: number): void => {
    if (vector >= 0x38) out(0xa0, 0x20);
    out(0x20, 0x20);
  };
  /** Takes the next interrupt, as the run loop does. */
  const take = (): number => {
    const vector = irqchip.acknowledge(0);
    if (vector >= 0) endOfInterrupt(vector);
    return vector;
  };
  startPics();
  return { clock, irqchip, ports, hpet, uart, pm, sent, resets, out, inb, take };
}

describe("the chips on a board", () => {
  it("tick: the 8254's interrupts reach the processor one by one", () => {
    const { clock, out, take } = board();
    out(0x43, 0x34);
    out(0x40, 4772 & 0xff);
    out(0x40, 4772 >> 8);
    // OUT rose with the control word: one edge that is no tick.
    expect(take()).toBe(0x30);
    let ticks = 0;
    for (let ms = 0; ms < 1000; ms++) {
      clock.advance(1_000_000);
      for (let vector = take(); vector >= 0; vector = take()) {
        expect(vector).toBe(0x30);
        ticks++;
      }
    }
    expect(ticks).toBe(250);
  });

  it("tick by the HPET under legacy replacement, as Linux's hpet_enable sets it", () => {
    const { clock, hpet, take, out } = board();
    out(0x43, 0x34);
    out(0x40, 0);
    out(0x40, 0);
    take();
    hpet.write(0x100, 4, 0x014c);
    hpet.write(0x108, 4, 400_000);
    hpet.write(0x108, 4, 400_000);
    hpet.write(0x010, 4, 3);
    let ticks = 0;
    for (let ms = 0; ms < 1000; ms++) {
      clock.advance(1_000_000);
      while (take() === 0x30) ticks++;
    }
    expect(ticks).toBe(250);
  });

  it("talk: a driver's interrupt loop prints and reads", () => {
    const { clock, uart, sent, out, inb, take } = board();
    out(0x3fb, 0x03);
    out(0x3fa, 0x81);
    out(0x3fc, 0x0b);
    out(0x3f9, 0x03);
    const text = "a line of text that is longer than a FIFO\n";
    const bytes = [...new TextEncoder().encode(text)];
    let next = 0;
    const got: number[] = [];
    const typed = [0x6c, 0x73, 0x0d];
    uart.receive(typed);
    for (let ms = 0; ms < 10; ms++) {
      while (take() === 0x34) {
        while ((inb(0x3fa) & 1) === 0) {
          while ((inb(0x3fd) & 1) !== 0) got.push(inb(0x3f8));
          for (let room = 16; room > 0 && next < bytes.length; room--) out(0x3f8, bytes[next++]!);
          if (next === bytes.length) out(0x3f9, 0x01);
        }
      }
      clock.advance(1_000_000);
    }
    expect(sent).toEqual(bytes);
    expect(got).toEqual(typed);
    expect(take()).toBe(-1);
  });

  it("type: one interrupt a scan code, though they come at once", () => {
    const { out, inb, take } = board();
    out(0x60, 0xf2);
    const seen: number[] = [];
    while (take() === 0x31) seen.push(inb(0x60));
    expect(seen).toEqual([0xfa, 0xab, 0x41]);
  });

  it("raise the RTC's alarm and the SCI through the slave", () => {
    const { clock, pm, out, inb, ports, take } = board();
    out(0x70, 0x0b);
    out(0x71, 0x12);
    clock.advance(1_000_000_000);
    expect(take()).toBe(0x38);
    out(0x70, 0x0c);
    expect(inb(0x71) & 0x90).toBe(0x90);

    out(0xb2, 0xf1);
    expect(ports.read(0x604, 2)).toBe(1);
    ports.write(0x602, 2, 0x0100);
    pm.pressPowerButton();
    expect(take()).toBe(0x39);
    ports.write(0x600, 2, 0x0100);
    expect(take()).toBe(-1);
  });

  it("survive the probe for PCI of a guest without it, and reset on demand", () => {
    const { ports, out, resets } = board();
    for (let slot = 0; slot < 256; slot++) ports.write(0xcf8, 4, 0x8000_0000 + (slot << 8));
    expect(ports.read(0xcf8, 4)).toBe(0xffff_ffff);
    expect(resets).toEqual([]);
    out(0xcf9, 0x06);
    out(0x64, 0xfe);
    out(0x92, 0x03);
    expect(resets).toEqual(["system", "processor", "processor"]);
  });

  it("leave the delay ports alone", () => {
    const { inb, out } = board();
    for (const port of [0x80, 0xed]) {
      out(port, 0);
      expect(inb(port)).toBe(0xff);
    }
    expect(Mmio.HPET.base).toBe(0xfed0_0000);
  });
});
