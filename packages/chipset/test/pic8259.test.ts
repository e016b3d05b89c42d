// Two 8259As as a guest programs them. Values: Intel 8259A datasheet (231468); ELCR: Intel PIIX3 (290550) sec. 2.5.8.
import type { BusDevice } from "@skep/memory";
import { describe, expect, it } from "vitest";
import { Pic8259 } from "../src/index.ts";

/** OCW2. */
const EOI = 0x20;
const ROTATE_EOI = 0xa0;

function setup() {
  const intr: boolean[] = [];
  const pic = new Pic8259((level) => intr.push(level));
  const ports = new Map<number, readonly [BusDevice, number]>([
    [0x20, [pic.master, 0]],
    [0x21, [pic.master, 1]],
    [0xa0, [pic.slave, 0]],
    [0xa1, [pic.slave, 1]],
    [0x4d0, [pic.elcr, 0]],
    [0x4d1, [pic.elcr, 1]],
  ]);
  const out = (port: number, value: number): void => {
    const [device, offset] = ports.get(port)!;
    device.write(offset, 1, value);
  };
  const inb = (port: number): number => {
    const [device, offset] = ports.get(port)!;
    return device.read(offset, 1);
  };
  return { pic, intr, out, inb };
}

/** As a PC's firmware or Linux does: vectors 0x30 and 0x38, cascade on IR2, ICW4 as given. */
function ready(icw4 = 0x01, slaveIcw4 = 0x01) {
  const m = setup();
  m.out(0x20, 0x11);
  m.out(0x21, 0x30);
  m.out(0x21, 0x04);
  m.out(0x21, icw4);
  m.out(0xa0, 0x11);
  m.out(0xa1, 0x38);
  m.out(0xa1, 0x02);
  m.out(0xa1, slaveIcw4);
  const pulse = (irq: number): void => {
    m.pic.setInput(irq, true);
    m.pic.setInput(irq, false);
  };
  /** In-service registers of both chips. */
  const isr = (): [number, number] => {
    m.out(0x20, 0x0b);
    m.out(0xa0, 0x0b);
    return [m.inb(0x20), m.inb(0xa0)];
  };
  return { ...m, pulse, isr };
}

describe("initialisation", () => {
  it("outputs nothing before it, and latches edges all the same", () => {
    const { pic, intr, out, inb } = setup();
    pic.setInput(1, true);
    expect(intr).toEqual([]);
    expect(inb(0x20)).toBe(0x02);
    out(0x20, 0x11);
    expect(inb(0x20)).toBe(0);
    expect(inb(0x21)).toBe(0);
  });

  it("takes ICW2 to ICW4 in order, then OCW1", () => {
    const { pic, out, inb } = setup();
    out(0x20, 0x11);
    out(0x21, 0x47);
    pic.setInput(3, true);
    expect(pic.intr).toBe(false);
    out(0x21, 0x04);
    expect(pic.intr).toBe(false);
    out(0x21, 0x01);
    expect(pic.intr).toBe(true);
    expect(inb(0x21)).toBe(0);
    out(0x21, 0xa5);
    expect(inb(0x21)).toBe(0xa5);
    out(0x21, 0);
    expect(pic.acknowledge()).toBe(0x43);
  });

  it("is shorter without ICW4, and without ICW3 for a single chip", () => {
    const a = setup();
    a.out(0x20, 0x10);
    a.out(0x21, 0x30);
    a.out(0x21, 0x04);
    a.out(0x21, 0x5a);
    expect(a.inb(0x21)).toBe(0x5a);
    const b = setup();
    b.out(0x20, 0x12);
    b.out(0x21, 0x30);
    b.out(0x21, 0x5a);
    expect(b.inb(0x21)).toBe(0x5a);
  });

  it("clears masks, service, priorities and edges; a line that is high has to fall first", () => {
    const { pic, out, inb, isr } = ready();
    pic.setInput(4, true);
    pic.acknowledge();
    out(0x21, 0xff);
    out(0x20, 0xc3);
    out(0x20, 0x68);
    out(0x20, 0x11);
    expect(inb(0x21)).toBe(0);
    out(0x21, 0x30);
    out(0x21, 0x04);
    out(0x21, 0x01);
    expect(isr()).toEqual([0, 0]);
    expect(pic.intr).toBe(false);
    pic.setInput(4, false);
    pic.setInput(4, true);
    expect(pic.acknowledge()).toBe(0x34);
  });

  it("passes Linux's probe: the mask reads back", () => {
    const { out, inb } = setup();
    out(0xa1, 0xff);
    out(0x21, 0xfb);
    expect(inb(0x21)).toBe(0xfb);
    expect(inb(0xa1)).toBe(0xff);
  });
});

describe("requests and priority", () => {
  it("gives every input its vector, the slave's through IR2", () => {
    const { pic, pulse, out, isr } = ready();
    for (let irq = 0; irq < 16; irq++) {
      if (irq === 2) continue;
      pulse(irq);
      expect(pic.intr).toBe(true);
      expect(pic.peek()).toBe(0x30 + irq);
      expect(pic.acknowledge()).toBe(0x30 + irq);
      expect(pic.intr).toBe(false);
      expect(isr()).toEqual(irq < 8 ? [1 << irq, 0] : [4, 1 << (irq - 8)]);
      if (irq >= 8) out(0xa0, EOI);
      out(0x20, EOI);
      expect(isr()).toEqual([0, 0]);
    }
  });

  it("serves IR0, IR1, IR8 to IR15, IR3 to IR7 in that order", () => {
    const { pic, pulse, out } = ready();
    for (let irq = 15; irq >= 0; irq--) if (irq !== 2) pulse(irq);
    const order: number[] = [];
    while (pic.intr) {
      const vector = pic.acknowledge();
      order.push(vector - 0x30);
      if (vector >= 0x38) out(0xa0, EOI);
      out(0x20, EOI);
    }
    expect(order).toEqual([0, 1, 8, 9, 10, 11, 12, 13, 14, 15, 3, 4, 5, 6, 7]);
  });

  it("nests: only what is more urgent interrupts what is in service", () => {
    const { pic, pulse, out } = ready();
    pulse(4);
    pic.acknowledge();
    pulse(5);
    pulse(4);
    expect(pic.intr).toBe(false);
    pulse(1);
    expect(pic.acknowledge()).toBe(0x31);
    out(0x20, EOI);
    expect(pic.intr).toBe(false);
    out(0x20, EOI);
    expect(pic.acknowledge()).toBe(0x34);
    out(0x20, EOI);
    expect(pic.acknowledge()).toBe(0x35);
  });

  it("masks a request and keeps it", () => {
    const { pic, pulse, out, inb } = ready();
    out(0x21, 0x08);
    pulse(3);
    expect(pic.intr).toBe(false);
    expect(inb(0x20)).toBe(0x08);
    out(0x21, 0);
    expect(pic.intr).toBe(true);
    out(0x21, 0x08);
    expect(pic.intr).toBe(false);
  });

  it("blocks the slave by the master's mask and withdraws the cascade by the slave's", () => {
    const { pic, pulse, out } = ready();
    pulse(10);
    expect(pic.intr).toBe(true);
    out(0x21, 0x04);
    expect(pic.intr).toBe(false);
    out(0x21, 0);
    expect(pic.intr).toBe(true);
    out(0xa1, 0x04);
    expect(pic.intr).toBe(false);
    out(0xa1, 0);
    expect(pic.acknowledge()).toBe(0x3a);
  });

  it("lowers INTR in every INTA cycle, so that edge-triggered inputs behind it see the next request", () => {
    const { pic, intr, pulse, out } = ready(0x03);
    pulse(3);
    pulse(4);
    pic.acknowledge();
    expect(intr).toEqual([true, false, true]);
    out(0x20, EOI);
    pic.acknowledge();
    expect(intr).toEqual([true, false, true, false]);
  });
});

describe("end of interrupt and rotation", () => {
  it("specific EOI ends its level, not the most urgent", () => {
    const { pic, pulse, out, isr } = ready();
    pulse(5);
    pic.acknowledge();
    pulse(1);
    pic.acknowledge();
    out(0x20, 0x65);
    expect(isr()).toEqual([0x02, 0]);
    out(0x20, 0x40);
    expect(isr()).toEqual([0x02, 0]);
  });

  it("rotates on non-specific EOI: what was served becomes the least urgent", () => {
    const { pic, pulse, out } = ready();
    pulse(4);
    pic.acknowledge();
    out(0x20, ROTATE_EOI);
    for (const irq of [1, 3, 4, 5, 7]) pulse(irq);
    const order: number[] = [];
    while (pic.intr) {
      order.push(pic.acknowledge() - 0x30);
      out(0x20, EOI);
    }
    expect(order).toEqual([5, 7, 1, 3, 4]);
  });

  it("rotates on specific EOI, and sets the priority without an EOI", () => {
    const { pic, pulse, out, isr } = ready();
    pulse(6);
    pic.acknowledge();
    out(0x20, 0xc4);
    expect(isr()).toEqual([0x40, 0]);
    pulse(4);
    pulse(5);
    expect(pic.acknowledge()).toBe(0x35);
    out(0x20, 0xe5);
    expect(isr()).toEqual([0x40, 0]);
    out(0x20, 0x66);
    pulse(6);
    expect(pic.acknowledge()).toBe(0x36);
  });

  it("ends by itself in AEOI mode, rotating if so set", () => {
    const { pic, pulse, out, isr } = ready(0x03, 0x03);
    pulse(3);
    pic.acknowledge();
    expect(isr()).toEqual([0, 0]);
    pulse(12);
    expect(pic.acknowledge()).toBe(0x3c);
    expect(isr()).toEqual([0, 0]);
    out(0x20, 0x80);
    pulse(3);
    pic.acknowledge();
    pulse(1);
    pulse(4);
    expect(pic.acknowledge()).toBe(0x34);
    out(0x20, 0x00);
    pulse(6);
    expect(pic.acknowledge()).toBe(0x36);
    pulse(7);
    expect(pic.acknowledge()).toBe(0x37);
    expect(pic.acknowledge()).toBe(0x31);
  });

  it("does nothing at an EOI with nothing in service", () => {
    const { out, isr, pic, pulse } = ready();
    for (const ocw2 of [EOI, 0x63, ROTATE_EOI]) out(0x20, ocw2);
    expect(isr()).toEqual([0, 0]);
    pulse(0);
    pulse(7);
    expect(pic.acknowledge()).toBe(0x30);
  });
});

describe("special modes", () => {
  it("special mask mode lets through everything but what is masked", () => {
    const { pic, pulse, out, isr } = ready();
    pulse(3);
    pic.acknowledge();
    pulse(5);
    expect(pic.intr).toBe(false);
    out(0x21, 0x08);
    out(0x20, 0x68);
    expect(pic.acknowledge()).toBe(0x35);
    out(0x20, EOI);
    expect(isr()).toEqual([0x08, 0]);
    out(0x20, EOI);
    expect(isr()).toEqual([0x08, 0]);
    out(0x20, 0x48);
    out(0x20, EOI);
    expect(isr()).toEqual([0, 0]);
  });

  it("special fully nested mode lets the slave's more urgent requests past IR2, and nothing below it", () => {
    const { pic, pulse, out, isr } = ready(0x11);
    pulse(12);
    pic.acknowledge();
    pulse(4);
    pulse(13);
    expect(pic.intr).toBe(false);
    pulse(9);
    expect(pic.acknowledge()).toBe(0x39);
    expect(isr()).toEqual([4, 0x12]);
    out(0xa0, EOI);
    out(0xa0, EOI);
    expect(pic.acknowledge()).toBe(0x3d);
  });

  it("without it the slave waits for the master's EOI", () => {
    const { pic, pulse, out } = ready();
    pulse(12);
    pic.acknowledge();
    pulse(9);
    expect(pic.intr).toBe(false);
    out(0x20, EOI);
    expect(pic.acknowledge()).toBe(0x39);
  });

  it("polls: one read acknowledges and names the level", () => {
    const { pulse, out, inb, isr, pic } = ready();
    out(0x20, 0x0c);
    expect(inb(0x20) & 0x80).toBe(0);
    pulse(6);
    out(0x20, 0x0c);
    expect(inb(0x20)).toBe(0x86);
    expect(inb(0x21)).toBe(0);
    expect(isr()).toEqual([0x40, 0]);
    expect(pic.intr).toBe(false);
    pulse(11);
    out(0x20, 0x0e);
    expect(inb(0x20)).toBe(0x82);
    out(0xa0, 0x0c);
    expect(inb(0xa0)).toBe(0x83);
    expect(isr()).toEqual([0x44, 0x08]);
  });

  it("reads IRR or ISR as OCW3 last said", () => {
    const { pulse, out, inb, pic } = ready();
    pulse(3);
    pic.acknowledge();
    pulse(5);
    expect(inb(0x20)).toBe(0x20);
    out(0x20, 0x0b);
    expect(inb(0x20)).toBe(0x08);
    out(0x20, 0x08);
    expect(inb(0x20)).toBe(0x08);
    out(0x20, 0x0a);
    expect(inb(0x20)).toBe(0x20);
  });
});

describe("level-triggered inputs (ELCR)", () => {
  it("can be set for all but IRQ 0, 1, 2, 8 and 13", () => {
    const { out, inb, pic } = setup();
    expect([inb(0x4d0), inb(0x4d1)]).toEqual([0, 0]);
    out(0x4d0, 0xff);
    out(0x4d1, 0xff);
    expect([inb(0x4d0), inb(0x4d1)]).toEqual([0xf8, 0xde]);
    expect(pic.elcr.read(0, 2)).toBe(0xdef8);
    pic.elcr.write(0, 2, 0x0420);
    expect(pic.elcr.read(0, 2)).toBe(0x0420);
  });

  it("request as long as they are asserted", () => {
    const { pic, out, inb } = ready();
    out(0x4d0, 0x20);
    pic.setInput(5, true);
    expect(pic.acknowledge()).toBe(0x35);
    out(0x20, 0x0a);
    expect(inb(0x20)).toBe(0x20);
    out(0x20, EOI);
    expect(pic.acknowledge()).toBe(0x35);
    pic.setInput(5, false);
    out(0x20, EOI);
    expect(pic.intr).toBe(false);
  });

  it("withdraw a request that is not acknowledged yet: INTA then gives the spurious IR7", () => {
    const { pic, out, isr } = ready();
    out(0x4d0, 0x20);
    pic.setInput(5, true);
    expect(pic.intr).toBe(true);
    pic.setInput(5, false);
    expect(pic.intr).toBe(false);
    expect(pic.acknowledge()).toBe(0x37);
    expect(isr()).toEqual([0, 0]);
  });

  it("withdraw a slave's request from the master too: also then it is the master's spurious IR7", () => {
    const { pic, out, isr } = ready();
    out(0x4d1, 0x04);
    pic.setInput(10, true);
    expect(pic.peek()).toBe(0x3a);
    pic.setInput(10, false);
    expect(pic.acknowledge()).toBe(0x37);
    expect(isr()).toEqual([0, 0]);
  });

  it("drops latched edges of an input made level-triggered", () => {
    const { pic, pulse, out } = ready();
    pulse(5);
    out(0x4d0, 0x20);
    expect(pic.intr).toBe(false);
    out(0x4d0, 0);
    expect(pic.intr).toBe(false);
  });
});

describe("hostile and odd accesses", () => {
  it("splits wide accesses into byte cycles", () => {
    const { pic, inb } = ready();
    pic.master.write(0, 2, 0x5a0b);
    expect(inb(0x21)).toBe(0x5a);
    expect(pic.master.read(0, 2)).toBe(0x5a00);
    expect(pic.master.read(0, 4)).toBe(0xffff_5a00);
    expect(pic.master.read(1, 2)).toBe(0xff5a);
    pic.master.write(1, 2, 0xff11);
    expect(inb(0x21)).toBe(0x11);
  });

  it("stays consistent under every command at every step", () => {
    const { pic, out, inb } = setup();
    let seed = 12345;
    const random = (below: number): number => {
      seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
      return (seed >>> 8) % below;
    };
    const ports = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1];
    for (let step = 0; step < 50_000; step++) {
      const port = ports[random(6)]!;
      const irq = random(16);
      switch (random(4)) {
        case 0:
          out(port, random(256));
          break;
        case 1:
          expect(inb(port)).toBeLessThan(256);
          break;
        case 2:
          if (irq !== 2) pic.setInput(irq, random(2) === 1);
          break;
        default:
          if (pic.intr) expect(pic.peek()).toBe(pic.acknowledge());
      }
    }
  });
});

describe("state", () => {
  it("survives a round trip in the middle of everything", () => {
    const a = ready();
    a.out(0x4d0, 0x20);
    a.out(0x21, 0x40);
    a.pulse(12);
    a.pic.acknowledge();
    a.pulse(9);
    a.pulse(3);
    a.pulse(6);
    a.pic.setInput(5, true);
    a.out(0x20, 0xc0);
    a.out(0xa0, 0x0b);
    a.out(0xa0, 0x11);
    const b = setup();
    b.pic.restore(structuredClone(a.pic.save()));
    expect(b.pic.save()).toEqual(a.pic.save());
    for (const m of [a, b]) {
      m.out(0xa1, 0x38);
      m.out(0xa1, 0x02);
      m.out(0xa1, 0x01);
      m.out(0x20, EOI);
    }
    expect(b.pic.intr).toBe(a.pic.intr);
    expect(b.pic.acknowledge()).toBe(a.pic.acknowledge());
    expect(b.pic.save()).toEqual(a.pic.save());
  });

  it("drives INTR as restored", () => {
    const a = ready();
    a.pulse(3);
    const b = setup();
    b.pic.restore(a.pic.save());
    expect(b.intr).toEqual([true]);
    b.pic.restore(ready().pic.save());
    expect(b.intr).toEqual([true, false]);
  });

  it.each([
    ["step", 1],
    ["step", 6],
    ["icw2", 256],
    ["imr", -1],
    ["isr", 0.5],
    ["latch", "0"],
    ["levels", 1n],
    ["elcr", undefined],
    ["lowest", 8],
    ["specialMask", 1],
    ["poll", null],
  ])("is refused with %s broken", (field, value) => {
    const { pic, inb, out } = ready();
    out(0xa1, 0x77);
    for (const chip of ["master", "slave"] as const) {
      const state = setup().pic.save();
      const broken = { ...state, [chip]: { ...state[chip], [field]: value } };
      expect(() => pic.restore(broken)).toThrow(new RegExp(`pic8259\\.${chip}\\.${field}: expected`));
    }
    expect(inb(0xa1)).toBe(0x77);
  });
});
