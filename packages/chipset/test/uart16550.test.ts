import { Uart16550 } from "@skep/chipset";
import { FakeClock, LineProbe } from "@skep/chipset/testing";
import { describe, expect, it } from "vitest";

// Offsets and bits of the PC16550D data sheet (June 1995), tables II to V.
const RBR = 0;
const THR = 0;
const IER = 1;
const IIR = 2;
const FCR = 2;
const LCR = 3;
const MCR = 4;
const LSR = 5;
const MSR = 6;
const SCR = 7;

function setup() {
  const clock = new FakeClock();
  const irq = new LineProbe(clock);
  const sent: number[] = [];
  const calls = { space: 0, outputs: [] as unknown[] };
  let onSpace = (): void => {};
  const uart = new Uart16550(clock, irq, {
    onTransmit: (byte) => sent.push(byte),
    onReceiveSpace: () => {
      calls.space++;
      onSpace();
    },
    onModemOutputs: (outputs) => calls.outputs.push(outputs),
  });
  const out = (offset: number, value: number): void => uart.write(offset, 1, value);
  const inb = (offset: number): number => uart.read(offset, 1);
  /** OUT2 on, so that the interrupt reaches the PC's line. */
  const open = (ier: number, fcr = 0x01): void => {
    out(MCR, 0x0b);
    out(FCR, fcr);
    out(IER, ier);
  };
  return {
    clock,
    irq,
    uart,
    sent,
    calls,
    out,
    inb,
    open,
    onSpaceDo: (action: () => void) => (onSpace = action),
  };
}

describe("16550A reset and registers", () => {
  it("has the reset values of table III", () => {
    const { inb } = setup();
    expect([IER, IIR, LCR, MCR, LSR, MSR, SCR].map(inb)).toEqual([0x00, 0x01, 0x00, 0x00, 0x60, 0xb0, 0x00]);
    expect(inb(RBR)).toBe(0);
  });

  it("keeps only the bits that exist", () => {
    const { out, inb } = setup();
    for (const [offset, kept] of [
      [IER, 0x0f],
      [LCR, 0xff],
      [MCR, 0x1f],
      [SCR, 0xff],
    ] as const) {
      out(offset, 0xff);
      expect(inb(offset)).toBe(kept);
      out(offset, 0x00);
      expect(inb(offset)).toBe(0x00);
    }
  });

  it("ignores writes to LSR and MSR", () => {
    const { out, inb } = setup();
    for (const value of [0x00, 0xff]) {
      out(LSR, value);
      out(MSR, value);
      expect([inb(LSR), inb(MSR)]).toEqual([0x60, 0xb0]);
    }
  });

  it("swaps the divisor in with DLAB", () => {
    const { out, inb, sent } = setup();
    out(LCR, 0x83);
    out(0, 0x0c);
    out(1, 0x80);
    expect([inb(0), inb(1)]).toEqual([0x0c, 0x80]);
    out(LCR, 0x03);
    expect([inb(0), inb(1)]).toEqual([0x00, 0x00]);
    expect(sent).toEqual([]);
  });

  it("starts with a divisor that Linux's earlycon can divide by", () => {
    const { out, inb } = setup();
    out(LCR, 0x80);
    expect(inb(0) | (inb(1) << 8)).toBeGreaterThan(0);
  });

  it("splits wide accesses into bytes", () => {
    const { uart, inb, sent } = setup();
    uart.write(SCR - 1, 2, 0x5a00);
    expect(inb(SCR)).toBe(0x5a);
    uart.write(LCR, 1, 0x03);
    expect(uart.read(LCR, 4)).toBe(0xb060_0003);
    expect(uart.read(SCR, 2)).toBe(0xff5a);
    uart.write(THR, 2, 0x0041);
    expect(sent).toEqual([0x41]);
  });
});

describe("16550A as Linux's 8250 driver probes it", () => {
  it("passes autoconfig: IER, loopback modem lines, FIFO bits, no EFR, no 64-byte FIFO", () => {
    const { out, inb } = setup();
    out(IER, 0);
    expect(inb(IER) & 0x0f).toBe(0);
    out(IER, 0x0f);
    expect(inb(IER) & 0x0f).toBe(0x0f);
    out(MCR, 0x10 | 0x0a);
    expect(inb(MSR) & 0xf0).toBe(0x90);
    out(MCR, 0);
    out(LCR, 0xbf);
    out(LCR, 0);
    out(FCR, 0x01);
    expect(inb(IIR) >> 6).toBe(3);
    out(LCR, 0xbf);
    expect(inb(2)).not.toBe(0);
    out(LCR, 0);
    out(FCR, 0x01 | 0x20);
    expect(inb(IIR) & 0x20).toBe(0);
    // The Xscale test wants IER's bit 6 to stay 0.
    out(IER, 0x40);
    expect(inb(IER) & 0x40).toBe(0);
  });

  it("reasserts THRE each time the interrupt is enabled (the THRE test of serial8250_do_startup)", () => {
    const { out, inb } = setup();
    out(IER, 0x02);
    expect(inb(IIR)).toBe(0x02);
    expect(inb(IIR)).toBe(0x01);
    out(IER, 0x00);
    out(IER, 0x02);
    expect(inb(IIR)).toBe(0x02);
  });

  it("shows TEMT and the interrupt together (the TXEN test)", () => {
    const { out, inb } = setup();
    out(IER, 0x02);
    expect(inb(LSR) & 0x40).toBe(0x40);
    expect(inb(IIR) & 0x01).toBe(0);
  });
});

describe("16550A transmitter", () => {
  it("sends at once and is empty again at once", () => {
    const { out, inb, sent } = setup();
    out(LCR, 0x03);
    for (const byte of [0x00, 0x7f, 0x80, 0xff]) {
      out(THR, byte);
      expect(inb(LSR)).toBe(0x60);
    }
    expect(sent).toEqual([0x00, 0x7f, 0x80, 0xff]);
  });

  it("sends characters of 5 to 8 bits", () => {
    const { out, sent } = setup();
    for (const bits of [0, 1, 2, 3]) {
      out(LCR, bits);
      out(THR, 0xff);
    }
    expect(sent).toEqual([0x1f, 0x3f, 0x7f, 0xff]);
  });

  it("interrupts again after each write, cleared by reading IIR", () => {
    const { out, inb, irq, open } = setup();
    open(0x02);
    expect(irq.level).toBe(true);
    expect(inb(IIR)).toBe(0xc2);
    expect(irq.level).toBe(false);
    out(THR, 0x41);
    expect(irq.level).toBe(true);
    expect(inb(IIR)).toBe(0xc2);
    expect(inb(IIR)).toBe(0xc1);
  });

  it("lets a driver that never stops sending leave its handler, and calls it back (Linux: 512 rounds)", () => {
    const { clock, out, inb, irq, sent, open } = setup();
    open(0x02);
    let left = 64 * 1024;
    let handlers = 0;
    while (left > 0) {
      if (!irq.level) clock.advance(100_000);
      expect(irq.level).toBe(true);
      handlers++;
      let rounds = 0;
      while ((inb(IIR) & 0x01) === 0) {
        inb(LSR);
        for (let index = 0; index < 16 && left > 0; index++, left--) out(THR, 0x2e);
        rounds++;
        expect(rounds).toBeLessThan(512);
        if (left === 0) break;
      }
    }
    expect(sent.length).toBe(64 * 1024);
    expect(handlers).toBeGreaterThan(10);
  });

  it("loses no THRE interrupt to the pause", () => {
    const { clock, out, inb, open } = setup();
    open(0x02);
    for (let index = 0; index < 1000; index++) {
      inb(IIR);
      out(THR, 0);
    }
    out(IER, 0x00);
    clock.advance(1_000_000);
    out(IER, 0x02);
    expect(inb(IIR) & 0x0f).toBe(0x02);
  });
});

describe("16550A receiver", () => {
  it("takes one byte without FIFOs, and calls for more when it is read", () => {
    const { uart, inb, irq, calls, out } = setup();
    out(LCR, 0x03);
    out(MCR, 0x08);
    out(IER, 0x01);
    expect(uart.receive([0x61, 0x62])).toBe(1);
    expect(irq.level).toBe(true);
    expect(inb(IIR)).toBe(0x04);
    expect(inb(LSR)).toBe(0x61);
    expect(calls.space).toBe(0);
    expect(inb(RBR)).toBe(0x61);
    expect(calls.space).toBe(1);
    expect(irq.level).toBe(false);
    expect(inb(LSR)).toBe(0x60);
  });

  it("interrupts at each trigger level", () => {
    for (const [fcr, level] of [
      [0x01, 1],
      [0x41, 4],
      [0x81, 8],
      [0xc1, 14],
    ] as const) {
      const { uart, irq, inb, open } = setup();
      open(0x01, fcr);
      uart.receive(new Array(level - 1).fill(0));
      expect(irq.level).toBe(false);
      uart.receive([0]);
      expect(irq.level).toBe(true);
      expect(inb(IIR)).toBe(0xc4);
      inb(RBR);
      expect(irq.level).toBe(false);
    }
  });

  it("interrupts for fewer bytes after the character timeout, reading one clears it", () => {
    const { clock, uart, irq, inb, open, out } = setup();
    open(0x01, 0xc1);
    out(LCR, 0x03);
    uart.receive([1, 2]);
    clock.advance(340_000);
    expect(irq.level).toBe(false);
    clock.advance(10_000);
    expect(irq.level).toBe(true);
    expect(inb(IIR)).toBe(0xcc);
    expect(inb(RBR)).toBe(1);
    expect(irq.level).toBe(false);
    clock.advance(350_000);
    expect(inb(IIR)).toBe(0xcc);
    expect(inb(RBR)).toBe(2);
    clock.advance(1_000_000);
    expect(inb(IIR)).toBe(0xc1);
  });

  it("holds 16 bytes and pushes back", () => {
    const { uart, inb, calls, open, out } = setup();
    open(0x01);
    out(LCR, 0x03);
    const bytes = Array.from({ length: 40 }, (_, index) => index);
    expect(uart.receive(bytes)).toBe(16);
    expect(uart.receive(bytes.slice(16))).toBe(0);
    for (let index = 0; index < 16; index++) expect(inb(RBR)).toBe(index);
    expect(calls.space).toBe(1);
    expect(uart.receive(bytes.slice(16))).toBe(16);
  });

  it("delivers a flood whole and in order, in bursts that end", () => {
    const { clock, uart, inb, open, out, onSpaceDo } = setup();
    open(0x01);
    out(LCR, 0x03);
    const total = 20_000;
    let offered = 0;
    const offer = (): void => {
      const chunk = Array.from(
        { length: Math.min(64, total - offered) },
        (_, index) => (offered + index) & 0xff,
      );
      offered += uart.receive(chunk);
    };
    onSpaceDo(offer);
    offer();
    const got: number[] = [];
    while (got.length < total) {
      let rounds = 0;
      while ((inb(LSR) & 0x01) !== 0) {
        got.push(inb(RBR));
        rounds++;
      }
      expect(rounds).toBeLessThan(4096);
      clock.advance(100_000);
    }
    expect(got).toEqual(Array.from({ length: total }, (_, index) => index & 0xff));
  });

  it("clears the FIFO by FCR and by switching FIFOs, and calls for more only after a while", () => {
    const { clock, uart, inb, out, calls } = setup();
    for (const fcr of [0x03, 0x00]) {
      out(FCR, 0x01);
      uart.receive(new Array(20).fill(1));
      calls.space = 0;
      out(FCR, fcr);
      expect(inb(LSR) & 0x01).toBe(0);
      expect(calls.space).toBe(0);
      clock.advance(100_000);
      expect(calls.space).toBe(1);
    }
  });

  it("shows a break with its own character, cleared by reading LSR", () => {
    const { uart, inb, irq, open, out } = setup();
    open(0x05);
    out(LCR, 0x03);
    uart.receive([0x41]);
    expect(uart.receiveBreak()).toBe(true);
    // In the FIFO but not at its head: only the FIFO error bit.
    expect(inb(LSR)).toBe(0xe1);
    expect(inb(RBR)).toBe(0x41);
    expect(inb(IIR)).toBe(0xc6);
    expect(irq.level).toBe(true);
    expect(inb(LSR)).toBe(0xf9);
    expect(inb(LSR)).toBe(0x61);
    expect(inb(RBR)).toBe(0x00);
    expect(irq.level).toBe(false);
  });
});

describe("16550A modem and loopback", () => {
  it("turns bytes round in loopback, with the line interrupt on overrun", () => {
    const { out, inb, sent, irq, uart } = setup();
    out(LCR, 0x03);
    out(FCR, 0x01);
    out(MCR, 0x18);
    out(IER, 0x04);
    for (let index = 0; index < 17; index++) out(THR, index);
    expect(sent).toEqual([]);
    expect(uart.receive([0x99])).toBe(0);
    expect(inb(IIR)).toBe(0xc6);
    expect(irq.level).toBe(false);
    expect(inb(LSR)).toBe(0x63);
    expect(inb(LSR)).toBe(0x61);
    expect(inb(RBR)).toBe(0);
  });

  it("turns the modem lines round in loopback (sec. 8.6)", () => {
    const { out, inb } = setup();
    for (const [mcr, msr] of [
      [0x10, 0x00],
      [0x11, 0x20],
      [0x12, 0x10],
      [0x14, 0x40],
      [0x18, 0x80],
      [0x1f, 0xf0],
    ] as const) {
      out(MCR, mcr);
      expect(inb(MSR) & 0xf0).toBe(msr);
    }
  });

  it("interrupts on modem changes, cleared by reading MSR; RI counts when it ends", () => {
    const { uart, inb, irq, open } = setup();
    open(0x08);
    uart.setModemSignals({ cts: false, dsr: true, ri: true, dcd: true });
    expect(irq.level).toBe(true);
    expect(inb(IIR)).toBe(0xc0);
    expect(inb(MSR)).toBe(0xe1);
    expect(irq.level).toBe(false);
    expect(inb(MSR)).toBe(0xe0);
    uart.setModemSignals({ cts: false, dsr: false, ri: false, dcd: false });
    expect(inb(MSR)).toBe(0x0e);
  });

  it("gates the line with OUT2", () => {
    const { out, irq } = setup();
    out(IER, 0x02);
    expect(irq.level).toBe(false);
    out(MCR, 0x08);
    expect(irq.level).toBe(true);
    out(MCR, 0x18);
    expect(irq.level).toBe(false);
  });

  it("tells the backend of DTR and RTS, once a change", () => {
    const { out, calls } = setup();
    out(MCR, 0x03);
    out(MCR, 0x0b);
    out(MCR, 0x1b);
    expect(calls.outputs).toEqual([
      { dtr: true, rts: true },
      { dtr: false, rts: false },
    ]);
  });

  it("orders interrupts by priority (table V)", () => {
    const { uart, inb, open, out } = setup();
    open(0x0f);
    out(LCR, 0x03);
    uart.setModemSignals({ cts: false, dsr: true, ri: false, dcd: true });
    uart.receiveBreak();
    expect(inb(IIR)).toBe(0xc6);
    inb(LSR);
    expect(inb(IIR)).toBe(0xc4);
    inb(RBR);
    expect(inb(IIR)).toBe(0xc2);
    expect(inb(IIR)).toBe(0xc0);
    inb(MSR);
    expect(inb(IIR)).toBe(0xc1);
  });
});

describe("16550A state", () => {
  it("round-trips with bytes and interrupts pending", () => {
    const first = setup();
    first.open(0x0f, 0x81);
    first.out(LCR, 0x1b);
    first.out(SCR, 0x77);
    first.uart.receive([1, 2, 3]);
    first.uart.receiveBreak();
    first.uart.setModemSignals({ cts: false, dsr: false, ri: true, dcd: false });
    const state = structuredClone(first.uart.save());
    const second = setup();
    second.uart.restore(state);
    expect(second.uart.save()).toEqual(state);
    expect(second.irq.level).toBe(first.irq.level);
    expect([second.inb(RBR), second.inb(RBR), second.inb(RBR)]).toEqual([1, 2, 3]);
    expect(second.inb(LSR)).toBe(0xf9);
  });

  it("calls a backend again that was waiting for room", () => {
    const first = setup();
    first.uart.receive([1, 2]);
    const state = first.uart.save();
    const second = setup();
    second.uart.restore(state);
    second.inb(RBR);
    second.clock.advance(100_000);
    expect(second.calls.space).toBe(1);
  });

  it("resets to table III, modem lines kept", () => {
    const { uart, inb, out, irq, open } = setup();
    open(0x0f);
    out(SCR, 1);
    uart.receive([1, 2, 3]);
    uart.reset();
    expect([IER, IIR, LCR, MCR, LSR, MSR, SCR].map(inb)).toEqual([0x00, 0x01, 0x00, 0x00, 0x60, 0xb0, 0x00]);
    expect(irq.level).toBe(false);
  });

  it("refuses what is not a state and changes nothing", () => {
    const { uart, open } = setup();
    open(0x01);
    const good = uart.save();
    for (const bad of [
      7,
      { ...good, kind: "uart8250" },
      { ...good, version: 0 },
      { ...good, ier: 0x10 },
      { ...good, rx: new Array(17).fill(0) },
      { ...good, fcr: 0, rx: [1, 2] },
      { ...good, rx: [-1] },
      { ...good, thrPending: 0 },
      { ...good, divisor: 65_536 },
    ]) {
      expect(() => uart.restore(bad)).toThrow(/uart16550/);
      expect(uart.save()).toEqual(good);
    }
  });
});
