// I/O APIC as a guest programs it. Values: Intel 82093AA datasheet (290566) sec. 3; ICH: version 0x20, EOI at 0x40.
import { describe, expect, it } from "vitest";
import { type ApicMessage, IoApic } from "../src/index.ts";

const LEVEL = 0x8000;
const MASKED = 0x1_0000;
const REMOTE_IRR = 0x4000;

function setup(options: { id?: number; accept?: boolean } = {}) {
  const sent: ApicMessage[] = [];
  const state = { accept: options.accept ?? true };
  const chip = new IoApic(
    (message) => {
      sent.push(message);
      return state.accept;
    },
    { id: options.id ?? 0 },
  );
  const rd = (register: number): number => {
    chip.write(0x00, 4, register);
    return chip.read(0x10, 4);
  };
  const wr = (register: number, value: number): void => {
    chip.write(0x00, 4, register);
    chip.write(0x10, 4, value);
  };
  /** Vectors sent since the last call. */
  const vectors = (): number[] => sent.splice(0).map(({ vector }) => vector);
  return { chip, sent, state, rd, wr, vectors };
}

describe("registers", () => {
  it("come out of reset masked", () => {
    const { rd, chip } = setup({ id: 5 });
    expect(chip.read(0x00, 4)).toBe(0);
    expect(rd(0x00)).toBe(0x0500_0000);
    expect(rd(0x01)).toBe(0x0017_0020);
    expect(rd(0x02)).toBe(0x0500_0000);
    for (let pin = 0; pin < 24; pin++) {
      expect(rd(0x10 + pin * 2)).toBe(0x1_0000);
      expect(rd(0x11 + pin * 2)).toBe(0);
    }
  });

  it("keep what can be written, for every index", () => {
    const { rd, wr } = setup();
    for (let index = 0; index < 256; index++) {
      const pin = index >= 0x10 && index < 0x40;
      const low = pin && index % 2 === 0;
      wr(index, 0xffff_ffff);
      const ones = index === 1 ? 0x17_0020 : index === 0 || index === 2 ? 0x0f00_0000 : 0;
      expect(rd(index)).toBe(low ? 0x1_afff : pin ? 0xff00_0000 : ones);
      if (index === 1 || index === 2) continue;
      wr(index, 0);
      if (index !== 0) expect(rd(index)).toBe(0);
      else wr(0, 0xffff_ffff);
    }
  });

  it("are read in parts, and written whole but for the index", () => {
    const { chip, rd, wr } = setup();
    chip.write(0x00, 1, 0x01);
    expect(chip.read(0x00, 1)).toBe(1);
    expect(chip.read(0x10, 1)).toBe(0x20);
    expect(chip.read(0x12, 2)).toBe(0x17);
    expect(chip.read(0x14, 4)).toBe(0);
    expect(chip.read(0x20, 4)).toBe(0);
    wr(0x10, 0x31);
    chip.write(0x10, 2, 0x55);
    chip.write(0x11, 4, 0x55);
    chip.write(0x14, 4, 0x55);
    expect(rd(0x10)).toBe(0x31);
  });

  it("answer every offset at every width without failing", () => {
    const { chip } = setup();
    for (let offset = 0; offset < 0x1000; offset++) {
      for (const size of [1, 2, 4] as const) {
        chip.write(offset, size, 0xffff_ffff);
        expect(chip.read(offset, size)).toBeLessThan(2 ** (8 * size));
      }
    }
  });

  it.each([-1, 16, 1.5])("refuse the ID %d", (id) => {
    expect(() => setup({ id })).toThrow(/IoApicOptions.id: expected .* got/);
  });
});

describe("edge-triggered inputs", () => {
  it("send a message at each rising edge, every pin its own", () => {
    const { chip, wr, vectors } = setup();
    for (let pin = 0; pin < 24; pin++) wr(0x10 + pin * 2, 0x40 + pin);
    for (let pin = 0; pin < 24; pin++) {
      chip.setPin(pin, true);
      chip.setPin(pin, true);
      chip.setPin(pin, false);
      expect(vectors()).toEqual([0x40 + pin]);
      chip.setPin(pin, true);
      expect(vectors()).toEqual([0x40 + pin]);
    }
  });

  it("lose an edge while masked", () => {
    const { chip, wr, vectors } = setup();
    wr(0x14, MASKED | 0x31);
    chip.setPin(2, true);
    wr(0x14, 0x31);
    expect(vectors()).toEqual([]);
    chip.setPin(2, false);
    chip.setPin(2, true);
    expect(vectors()).toEqual([0x31]);
  });

  it("carry the destination, modes and trigger of their entry", () => {
    const { chip, wr, sent } = setup();
    wr(0x15, 0x0300_0000);
    wr(0x14, 0x0931);
    chip.setPin(2, true);
    expect(sent).toEqual([
      { destination: 3, logical: true, wide: false, mode: 1, vector: 0x31, level: false },
    ]);
  });

  it("have no remote IRR, and no use for an EOI", () => {
    const { chip, wr, rd, vectors } = setup();
    wr(0x14, 0x31);
    chip.setPin(2, true);
    expect(rd(0x14)).toBe(0x31);
    chip.endOfInterrupt(0x31);
    expect(vectors()).toEqual([0x31]);
  });

  it("are what NMI, INIT and ExtINT are, whatever the trigger bit", () => {
    for (const mode of [4, 5, 7]) {
      const { chip, wr, rd, sent } = setup();
      wr(0x14, LEVEL | (mode << 8));
      chip.setPin(2, true);
      expect(sent).toHaveLength(1);
      expect(sent[0]).toMatchObject({ mode, level: false });
      expect(rd(0x14) & REMOTE_IRR).toBe(0);
    }
  });

  it("ignore polarity: a line is asserted or not", () => {
    const { chip, wr, vectors } = setup();
    wr(0x14, 0x2031);
    expect(vectors()).toEqual([]);
    chip.setPin(2, true);
    expect(vectors()).toEqual([0x31]);
  });
});

describe("level-triggered inputs", () => {
  it("send once, hold remote IRR until the EOI, and send again while asserted", () => {
    const { chip, wr, rd, sent, vectors } = setup();
    wr(0x30, LEVEL | 0x51);
    chip.setPin(16, true);
    expect(sent[0]).toMatchObject({ vector: 0x51, level: true });
    expect(vectors()).toEqual([0x51]);
    expect(rd(0x30)).toBe(LEVEL | REMOTE_IRR | 0x51);
    chip.setPin(16, false);
    chip.setPin(16, true);
    expect(vectors()).toEqual([]);
    chip.endOfInterrupt(0x50);
    expect(vectors()).toEqual([]);
    chip.endOfInterrupt(0x51);
    expect(vectors()).toEqual([0x51]);
    chip.setPin(16, false);
    chip.endOfInterrupt(0x51);
    expect(vectors()).toEqual([]);
    expect(rd(0x30)).toBe(LEVEL | 0x51);
  });

  it("are ended by the EOI register too", () => {
    const { chip, wr, rd, vectors } = setup();
    wr(0x30, LEVEL | 0x51);
    chip.setPin(16, true);
    chip.setPin(16, false);
    vectors();
    chip.write(0x40, 4, 0x52);
    expect(rd(0x30) & REMOTE_IRR).toBe(REMOTE_IRR);
    chip.write(0x40, 4, 0x51);
    expect(rd(0x30) & REMOTE_IRR).toBe(0);
    expect(chip.read(0x40, 4)).toBe(0);
  });

  it("wait while masked, also through an EOI", () => {
    const { chip, wr, vectors } = setup();
    wr(0x30, LEVEL | MASKED | 0x51);
    chip.setPin(16, true);
    expect(vectors()).toEqual([]);
    wr(0x30, LEVEL | 0x51);
    expect(vectors()).toEqual([0x51]);
    wr(0x30, LEVEL | MASKED | 0x51);
    chip.endOfInterrupt(0x51);
    expect(vectors()).toEqual([]);
    wr(0x30, LEVEL | 0x51);
    expect(vectors()).toEqual([0x51]);
  });

  it("end together where they share a vector", () => {
    const { chip, wr, vectors } = setup();
    wr(0x30, LEVEL | 0x51);
    wr(0x32, LEVEL | 0x51);
    chip.setPin(16, true);
    chip.setPin(17, true);
    expect(vectors()).toEqual([0x51, 0x51]);
    chip.setPin(16, false);
    chip.endOfInterrupt(0x51);
    expect(vectors()).toEqual([0x51]);
  });

  it("forget remote IRR when made edge-triggered, as Linux does to end a stuck one", () => {
    const { chip, wr, rd, vectors } = setup();
    wr(0x30, LEVEL | 0x51);
    chip.setPin(16, true);
    wr(0x30, MASKED | 0x51);
    wr(0x30, LEVEL | MASKED | 0x51);
    expect(rd(0x30)).toBe(LEVEL | MASKED | 0x51);
    vectors();
    wr(0x30, LEVEL | 0x51);
    expect(vectors()).toEqual([0x51]);
  });

  it("keep remote IRR from being written by software", () => {
    const { wr, rd } = setup();
    wr(0x30, LEVEL | REMOTE_IRR | 0x1000 | MASKED | 0x51);
    expect(rd(0x30)).toBe(LEVEL | MASKED | 0x51);
  });

  it("are not lost where no APIC takes them", () => {
    const { chip, wr, rd, state, vectors } = setup({ accept: false });
    wr(0x30, LEVEL | 0x51);
    chip.setPin(16, true);
    vectors();
    expect(rd(0x30) & REMOTE_IRR).toBe(0);
    state.accept = true;
    wr(0x31, 0x0100_0000);
    expect(vectors()).toEqual([0x51]);
    expect(rd(0x30) & REMOTE_IRR).toBe(REMOTE_IRR);
  });
});

describe("state", () => {
  it("survives a round trip", () => {
    const from = setup({ id: 3 });
    from.wr(0x30, LEVEL | 0x51);
    from.wr(0x31, 0x0200_0000);
    from.wr(0x12, 0x35);
    from.chip.setPin(16, true);
    from.chip.setPin(1, true);
    const to = setup();
    to.chip.restore(structuredClone(from.chip.save()));
    expect(to.vectors()).toEqual([]);
    expect(to.chip.save()).toEqual(from.chip.save());
    expect(to.rd(0x00)).toBe(0x0300_0000);
    to.chip.setPin(1, true);
    expect(to.vectors()).toEqual([]);
    to.chip.endOfInterrupt(0x51);
    expect(to.vectors()).toEqual([0x51]);
  });

  it.each([
    ["kind", "pic8259"],
    ["version", 2],
    ["id", 16],
    ["select", 256],
    ["low", []],
    ["low", Array(24).fill(-1)],
    ["high", Array(24).fill(2 ** 32)],
    ["high", "0"],
    ["levels", 2 ** 24],
    ["levels", Number.NaN],
  ])("is refused with %s broken", (field, value) => {
    const { chip, wr, rd } = setup();
    wr(0x14, 0x31);
    const broken = { ...setup().chip.save(), [field]: value };
    expect(() => chip.restore(broken)).toThrow(new RegExp(`ioapic\\.${field}: expected`));
    expect(rd(0x14)).toBe(0x31);
  });

  it.each([undefined, null, 1, "x", []])("is refused where it is %o", (state) => {
    expect(() => setup().chip.restore(state)).toThrow(/ioapic: expected an object/);
  });
});
