import { A20Gate, I8042, Port92, Ps2Keyboard, Ps2Mouse } from "@skep/chipset";
import { FakeClock, LineProbe } from "@skep/chipset/testing";
import { describe, expect, it } from "vitest";

// Status bits and commands of the IBM PS/2 Hardware Interface Technical Reference.
const OBF = 0x01;
const AUX = 0x20;
const TIMEOUT = 0x40;

function setup(plugged: { keyboard?: boolean; mouse?: boolean } = { keyboard: true, mouse: true }) {
  const clock = new FakeClock();
  const irq1 = new LineProbe(clock);
  const irq12 = new LineProbe(clock);
  const resets: string[] = [];
  const a20 = new A20Gate();
  const keyboard = new Ps2Keyboard();
  const mouse = new Ps2Mouse();
  const kbc = new I8042({ keyboard: irq1, mouse: irq12 }, a20, {
    ...(plugged.keyboard === true ? { keyboard } : {}),
    ...(plugged.mouse === true ? { mouse } : {}),
    onReset: (kind) => resets.push(kind),
  });
  const status = (): number => kbc.command.read(0, 1);
  const command = (value: number, parameter?: number): void => {
    kbc.command.write(0, 1, value);
    if (parameter !== undefined) kbc.data.write(0, 1, parameter);
  };
  const data = (value: number): void => kbc.data.write(0, 1, value);
  const get = (): number => kbc.data.read(0, 1);
  /** Everything that waits in the output buffer and behind it. */
  const drain = (): number[] => {
    const bytes: number[] = [];
    while ((status() & OBF) !== 0) {
      bytes.push(get());
      expect(bytes.length).toBeLessThan(100);
    }
    return bytes;
  };
  const config = (): number => {
    command(0x20);
    return get();
  };
  const toMouse = (byte: number): number[] => {
    command(0xd4, byte);
    return drain();
  };
  const toKeyboard = (byte: number): number[] => {
    data(byte);
    return drain();
  };
  return {
    kbc,
    irq1,
    irq12,
    resets,
    a20,
    keyboard,
    mouse,
    status,
    command,
    data,
    get,
    drain,
    config,
    toMouse,
    toKeyboard,
  };
}

describe("i8042 controller", () => {
  it("resets as firmware leaves it: nothing to read, unlocked, translating", () => {
    const { status, config, drain } = setup();
    expect(status()).toBe(0x14);
    expect(drain()).toEqual([]);
    expect(config()).toBe(0x65);
  });

  it("passes its self-tests", () => {
    const { command, get, status } = setup();
    for (const [test, answer] of [
      [0xaa, 0x55],
      [0xab, 0x00],
      [0xa9, 0x00],
      [0xa4, 0xf1],
    ] as const) {
      command(test);
      expect(status() & (OBF | AUX)).toBe(OBF);
      expect(get()).toBe(answer);
      expect(status() & OBF).toBe(0);
    }
  });

  it("keeps 32 bytes of memory, and shows the last write's kind", () => {
    const { command, get, status } = setup();
    for (let index = 1; index < 32; index++) command(0x60 + index, index ^ 0xff);
    expect(status() & 0x08).toBe(0);
    for (let index = 1; index < 32; index++) {
      command(0x20 + index);
      expect(status() & 0x08).toBe(0x08);
      expect(get()).toBe(index ^ 0xff);
    }
  });

  it("switches its ports, as the configuration shows (Linux's i8042_toggle_aux)", () => {
    const { command, config } = setup();
    for (const [off, on, bit] of [
      [0xa7, 0xa8, 0x20],
      [0xad, 0xae, 0x10],
    ] as const) {
      command(off);
      expect(config() & bit).toBe(bit);
      command(on);
      expect(config() & bit).toBe(0);
    }
  });

  it("loops bytes back as the second port's, without active multiplexing (Linux's probes)", () => {
    const { command, get, status, irq12 } = setup();
    command(0xd3, 0x5a);
    expect(status() & (OBF | AUX)).toBe(OBF | AUX);
    expect(get()).toBe(0x5a);
    for (const byte of [0xf0, 0x56, 0xa4]) {
      command(0xd3, byte);
      expect(get()).toBe(byte);
    }
    // The interrupt test: port and interrupt on, then one byte through the loop.
    command(0x60, 0x46);
    irq12.clear();
    command(0xd3, 0xa5);
    expect(irq12.level).toBe(true);
    expect(get()).toBe(0xa5);
    expect(irq12.level).toBe(false);
  });

  it("takes every command and every parameter without harm, but for resets", () => {
    const { command, data, drain, resets, status } = setup();
    for (let value = 0; value < 0xf0; value++) {
      for (const parameter of [0x03, 0xff]) {
        command(value, parameter);
        drain();
        data(parameter);
        drain();
      }
    }
    expect(resets).toEqual([]);
    expect(status() & 0x02).toBe(0);
  });

  it("splits wide accesses", () => {
    const { kbc } = setup();
    kbc.command.write(0, 2, 0xffaa);
    expect(kbc.command.read(0, 4)).toBe(0xffff_ff1d);
    expect(kbc.data.read(0, 2)).toBe(0xff55);
  });

  it("keeps an unread byte when the controller answers, and lets both be read", () => {
    const { keyboard, command, drain } = setup();
    keyboard.sendScanCode([0x1c]);
    command(0xaa);
    expect(drain()).toEqual([0x1e, 0x55]);
  });

  it("raises no interrupt for its own answers", () => {
    const { irq1, command } = setup();
    command(0x20);
    expect(irq1.transitions).toEqual([]);
    command(0xd2, 0x33);
    expect(irq1.level).toBe(false);
  });
});

describe("i8042 reset and A20", () => {
  it("resets by the pulse, by the output port, and by nothing else", () => {
    const { command, resets } = setup();
    command(0xff);
    command(0xf1);
    expect(resets).toEqual([]);
    command(0xfe);
    expect(resets).toEqual(["processor"]);
    command(0xd1, 0xdf);
    expect(resets.length).toBe(1);
    command(0xd1, 0xde);
    expect(resets.length).toBe(2);
  });

  it("shares the gate with port 0x92", () => {
    const { a20, command, get, resets } = setup();
    const port92 = new Port92(a20, (kind) => resets.push(kind));
    expect(port92.read(0, 1)).toBe(0x02);
    command(0xd1, 0xdd);
    expect(port92.read(0, 1)).toBe(0x00);
    port92.write(0, 1, 0x02);
    command(0xd0);
    expect(get() & 0x03).toBe(0x03);
    command(0xdd);
    expect(a20.enabled).toBe(false);
    command(0xdf);
    expect(a20.enabled).toBe(true);
    port92.write(0, 1, 0xff);
    port92.write(0, 1, 0xff);
    expect(resets).toEqual(["processor"]);
    expect(port92.read(0, 2)).toBe(0xff03);
    port92.reset();
    expect(port92.read(0, 1)).toBe(0x02);
  });

  it("saves and restores port and gate", () => {
    const a20 = new A20Gate();
    const port92 = new Port92(a20, () => {});
    port92.write(0, 1, 0x01);
    const changes: boolean[] = [];
    const otherGate = new A20Gate((enabled) => changes.push(enabled));
    const other = new Port92(otherGate, () => {});
    other.restore(port92.save());
    otherGate.restore(a20.save());
    expect(other.read(0, 1)).toBe(0x01);
    expect(changes).toEqual([false]);
    expect(() => other.restore({ kind: "port92", version: 1 })).toThrow(/initNow/);
    expect(() => otherGate.restore({ kind: "a20-gate", version: 1, enabled: 1 })).toThrow(/enabled/);
  });
});

describe("i8042 with a keyboard", () => {
  it("answers Linux's atkbd: identity (translated), rates, LEDs, disable, enable, echo", () => {
    const { toKeyboard, keyboard } = setup();
    expect(toKeyboard(0xf2)).toEqual([0xfa, 0xab, 0x41]);
    expect(toKeyboard(0xf5)).toEqual([0xfa]);
    expect(toKeyboard(0xed)).toEqual([0xfa]);
    expect(toKeyboard(0x06)).toEqual([0xfa]);
    expect(keyboard.leds).toBe(6);
    expect(toKeyboard(0xf3)).toEqual([0xfa]);
    expect(toKeyboard(0x00)).toEqual([0xfa]);
    expect(toKeyboard(0xf4)).toEqual([0xfa]);
    expect(toKeyboard(0xee)).toEqual([0xee]);
    expect(toKeyboard(0xff)).toEqual([0xfa, 0xaa]);
    expect(keyboard.leds).toBe(0);
  });

  it("tells scan code set 2 untranslated, refuses others, resends", () => {
    const { command, toKeyboard } = setup();
    command(0x60, 0x24);
    expect(toKeyboard(0xf2)).toEqual([0xfa, 0xab, 0x83]);
    expect(toKeyboard(0xf0)).toEqual([0xfa]);
    expect(toKeyboard(0x00)).toEqual([0xfa, 0x02]);
    expect(toKeyboard(0xf0)).toEqual([0xfa]);
    expect(toKeyboard(0x03)).toEqual([0xfe]);
    expect(toKeyboard(0xfe)).toEqual([0xfe]);
    expect(toKeyboard(0xee)).toEqual([0xee]);
    expect(toKeyboard(0xfe)).toEqual([0xee]);
    expect(toKeyboard(0x00)).toEqual([0xfe]);
  });

  it("translates set 2 to set 1, one interrupt a byte", () => {
    const { keyboard, irq1, get, status } = setup();
    // A down, A up; then right Ctrl up (E0 F0 14).
    keyboard.sendScanCode([0x1c]);
    keyboard.sendScanCode([0xf0, 0x1c]);
    keyboard.sendScanCode([0xe0, 0xf0, 0x14]);
    const seen: number[] = [];
    while (irq1.level) {
      expect(status() & (OBF | AUX)).toBe(OBF);
      seen.push(get());
    }
    expect(seen).toEqual([0x1e, 0x9e, 0xe0, 0x9d]);
    expect(irq1.edges).toBe(4);
    // F7 is the one key above 0x7F.
    keyboard.sendScanCode([0x83]);
    expect(get()).toBe(0x41);
  });

  it("holds codes back while the port is off, drops what does not fit, whole", () => {
    const { keyboard, command, drain, status } = setup();
    command(0xad);
    for (let index = 0; index < 5; index++) expect(keyboard.sendScanCode([0xe0, 0xf0, 0x75])).toBe(true);
    expect(keyboard.sendScanCode([0xe0, 0x75])).toBe(false);
    expect(status() & OBF).toBe(0);
    command(0xae);
    expect(drain()).toEqual(new Array(5).fill([0xe0, 0xc8]).flat());
  });

  it("sends nothing while scanning is off", () => {
    const { keyboard, toKeyboard, drain } = setup();
    toKeyboard(0xf5);
    expect(keyboard.sendScanCode([0x1c])).toBe(false);
    toKeyboard(0xf4);
    expect(keyboard.sendScanCode([0x1c])).toBe(true);
    expect(drain()).toEqual([0x1e]);
  });

  it("masks its interrupt by the configuration", () => {
    const { keyboard, irq1, command } = setup();
    command(0x60, 0x64);
    keyboard.sendScanCode([0x1c]);
    expect(irq1.level).toBe(false);
    command(0x60, 0x65);
    expect(irq1.level).toBe(true);
  });
});

describe("i8042 with a mouse", () => {
  it("answers psmouse: reset, identity, rates, status, enable", () => {
    const { command, toMouse } = setup();
    command(0xa8);
    expect(toMouse(0xff)).toEqual([0xfa, 0xaa, 0x00]);
    expect(toMouse(0xf2)).toEqual([0xfa, 0x00]);
    // The IntelliMouse knock changes nothing: id stays 0.
    for (const rate of [200, 100, 80]) {
      expect(toMouse(0xf3)).toEqual([0xfa]);
      expect(toMouse(rate)).toEqual([0xfa]);
    }
    expect(toMouse(0xf2)).toEqual([0xfa, 0x00]);
    expect(toMouse(0xe8)).toEqual([0xfa]);
    expect(toMouse(0x03)).toEqual([0xfa]);
    expect(toMouse(0xe7)).toEqual([0xfa]);
    expect(toMouse(0xf4)).toEqual([0xfa]);
    expect(toMouse(0xe9)).toEqual([0xfa, 0x30, 0x03, 80]);
    expect(toMouse(0xf6)).toEqual([0xfa]);
    expect(toMouse(0xe9)).toEqual([0xfa, 0x00, 0x02, 100]);
    expect(toMouse(0x77)).toEqual([0xfe]);
  });

  it("reports movement with interrupt 12, not before it is enabled", () => {
    const { command, toMouse, mouse, drain, irq12, status } = setup();
    command(0x60, 0x47);
    expect(mouse.move(1, 1, 0)).toBe(false);
    toMouse(0xf4);
    irq12.clear();
    expect(mouse.move(-2, 300, 5)).toBe(true);
    expect(status() & (OBF | AUX)).toBe(OBF | AUX);
    expect(irq12.level).toBe(true);
    expect(drain()).toEqual([0x1d, 0xfe, 0xff]);
    expect(irq12.edges).toBe(3);
    toMouse(0xf0);
    expect(mouse.move(1, 1, 0)).toBe(false);
    expect(toMouse(0xeb)).toEqual([0xfa, 0x08, 0x00, 0x00]);
  });

  it("echoes in wrap mode until told otherwise", () => {
    const { command, toMouse } = setup();
    command(0xa8);
    toMouse(0xee);
    expect(toMouse(0xf2)).toEqual([0xf2]);
    expect(toMouse(0xec)).toEqual([0xfa]);
    expect(toMouse(0xf2)).toEqual([0xfa, 0x00]);
  });
});

describe("i8042 with nothing plugged in", () => {
  it("says at once that nobody answers", () => {
    const { command, data, get, status } = setup({});
    data(0xf2);
    expect(status() & (OBF | AUX | TIMEOUT)).toBe(OBF | TIMEOUT);
    expect(get()).toBe(0xfe);
    command(0xd4, 0xf2);
    expect(status() & (OBF | AUX | TIMEOUT)).toBe(OBF | AUX | TIMEOUT);
    expect(get()).toBe(0xfe);
  });
});

describe("i8042 state", () => {
  it("round-trips controller and devices with bytes under way", () => {
    const first = setup();
    first.command(0x60, 0x47);
    first.toMouse(0xf4);
    first.keyboard.sendScanCode([0x1c]);
    first.keyboard.sendScanCode([0xf0, 0x1c]);
    first.mouse.move(3, 4, 1);
    first.command(0xd4);
    const state = structuredClone([first.kbc.save(), first.keyboard.save(), first.mouse.save()]);
    const second = setup();
    second.keyboard.restore(state[1]);
    second.mouse.restore(state[2]);
    second.kbc.restore(state[0]);
    expect([second.kbc.save(), second.keyboard.save(), second.mouse.save()]).toEqual(state);
    expect(second.irq1.level).toBe(true);
    expect(second.drain()).toEqual([0x1e, 0x9e, 0x09, 3, 4]);
    second.data(0xf2);
    expect(second.drain()).toEqual([0xfa, 0x00]);
  });

  it("resets controller and devices", () => {
    const { kbc, keyboard, status, config, irq1, command } = setup();
    keyboard.sendScanCode([0x1c]);
    command(0x60, 0x00);
    kbc.reset();
    expect(status()).toBe(0x14);
    expect(irq1.level).toBe(false);
    expect(config()).toBe(0x65);
  });

  it("refuses what is not a state and changes nothing", () => {
    const { kbc, keyboard, mouse } = setup();
    const good = { kbc: kbc.save(), keyboard: keyboard.save(), mouse: mouse.save() };
    const byte = { value: 1, source: 1, timeout: false };
    for (const bad of [
      1n,
      { ...good.kbc, memory: [] },
      { ...good.kbc, output: [byte] },
      { ...good.kbc, output: { ...byte, source: 3 } },
      { ...good.kbc, pending: { ...byte, value: 256 } },
    ]) {
      expect(() => kbc.restore(bad)).toThrow(/i8042/);
      expect(kbc.save()).toEqual(good.kbc);
    }
    for (const bad of [
      good.mouse,
      { ...good.keyboard, replies: [1, 2, 3, 4, 5, 6] },
      { ...good.keyboard, reports: new Array(17).fill(0) },
      { ...good.keyboard, leds: 8 },
    ]) {
      expect(() => keyboard.restore(bad)).toThrow(/ps2-keyboard/);
      expect(keyboard.save()).toEqual(good.keyboard);
    }
    for (const bad of [good.keyboard, { ...good.mouse, resolution: 4 }, { ...good.mouse, wrap: undefined }]) {
      expect(() => mouse.restore(bad)).toThrow(/ps2-mouse/);
      expect(mouse.save()).toEqual(good.mouse);
    }
  });
});
