import {
  A20Gate,
  AcpiPm,
  Hpet,
  I8042,
  Pit8254,
  Port61,
  Port92,
  Ps2Keyboard,
  Ps2Mouse,
  ResetControl,
  RtcCmos,
  Uart16550,
} from "@skep/chipset";
import { FakeClock, LineProbe } from "@skep/chipset/testing";
import type { AccessSize, BusDevice } from "@skep/memory";
import { describe, expect, it } from "vitest";

/** A guest without sense or shame, the same each time. */
function randomGuest(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

interface Machine {
  clock: FakeClock;
  chips: Record<string, { save(): unknown; restore(state: unknown): void }>;
  ports: { device: BusDevice; bytes: number }[];
  disturb: (() => void)[];
}

function machine(): Machine {
  const clock = new FakeClock();
  const line = (): LineProbe => new LineProbe();
  const inputs = [undefined, undefined, line(), line(), line()];
  const hpet = new Hpet(clock, { inputs, irq0: line(), irq8: line(), msi: { send: () => {} } });
  const pit = new Pit8254(clock, hpet.pitInput);
  const port61 = new Port61(clock, pit);
  const rtc = new RtcCmos(clock, hpet.rtcInput);
  const pm = new AcpiPm(clock, line(), { timerBits: 24 });
  const reset = new ResetControl(() => {});
  const a20 = new A20Gate();
  const port92 = new Port92(a20, () => {});
  const keyboard = new Ps2Keyboard();
  const mouse = new Ps2Mouse();
  const kbc = new I8042({ keyboard: line(), mouse: line() }, a20, { keyboard, mouse });
  const uart: Uart16550 = new Uart16550(clock, line(), {
    onTransmit: () => {},
    onReceiveSpace: () => void uart.receive(new Uint8Array(40)),
  });
  return {
    clock,
    chips: { a20, keyboard, mouse, kbc, hpet, pit, port61, rtc, pm, reset, port92, uart },
    ports: [
      { device: hpet, bytes: 0x400 },
      { device: pit, bytes: 4 },
      { device: port61, bytes: 1 },
      { device: rtc, bytes: 2 },
      { device: pm, bytes: 0x30 },
      { device: pm.smiCommand, bytes: 2 },
      { device: reset, bytes: 4 },
      { device: port92, bytes: 1 },
      { device: kbc.data, bytes: 1 },
      { device: kbc.command, bytes: 1 },
      { device: uart, bytes: 8 },
    ],
    disturb: [
      () => void keyboard.sendScanCode([0xe0, 0xf0, 0x75]),
      () => void mouse.move(-300, 5, 7),
      () => void uart.receive([1, 2, 3]),
      () => void uart.receiveBreak(),
      () => pm.pressPowerButton(),
      () => rtc.syncToWall(),
    ],
  };
}

describe("every chip under a hostile guest", () => {
  for (const seed of [1, 2, 3, 4]) {
    it(`answers any access, lets time pass, and can be saved at any moment (seed ${seed})`, () => {
      const random = randomGuest(seed);
      const { clock, chips, ports, disturb } = machine();
      const sizes: AccessSize[] = [1, 2, 4];
      const values = [0, 0xff, 0xffff_ffff, 0x8000_0000, 1];
      for (let step = 0; step < 20_000; step++) {
        const { device, bytes } = ports[random(ports.length)]!;
        // Mostly where registers are; sometimes across the end.
        const offset = random(4) === 0 ? random(bytes) : random(Math.min(bytes, 0x160));
        const size = sizes[random(3)]!;
        const value = random(2) === 0 ? values[random(values.length)]! : random(2 ** 32);
        if (random(2) === 0) {
          device.write(offset, size, value % 2 ** (8 * size));
        } else {
          const read = device.read(offset, size);
          expect(Number.isInteger(read) && read >= 0 && read <= 0xffff_ffff).toBe(true);
        }
        if (random(50) === 0) disturb[random(disturb.length)]!();
        // `advance` fails by itself where timers fire without end.
        if (random(20) === 0) clock.advance(random(2_000_000));
        if (random(2000) === 0) clock.stall(random(2 ** 32) * 1000);
      }
      clock.advance(100_000_000);

      const saved = Object.entries(chips).map(
        ([name, chip]) => [name, structuredClone(chip.save())] as const,
      );
      const other = machine();
      other.clock.advanceTo(clock.now());
      for (const [name, state] of saved) other.chips[name]!.restore(state);
      for (const [name, state] of saved) expect(other.chips[name]!.save()).toEqual(state);
    });
  }
});
