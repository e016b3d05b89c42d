import { InstructionClock, RealClock, TimerQueue } from "@skep/vcpu";
import { describe, expect, it } from "vitest";

describe("TimerQueue", () => {
  it("fires in order of deadline, ties in order of arming", () => {
    const queue = new TimerQueue();
    const fired: string[] = [];
    const make = (name: string) => queue.timer((deadline) => fired.push(`${name}@${deadline}`));
    const [a, b, c, d] = [make("a"), make("b"), make("c"), make("d")];
    c.arm(30);
    a.arm(10);
    d.arm(20);
    b.arm(20);
    expect(queue.nextDeadline).toBe(10);
    expect(queue.fireDue(9)).toBe(0);
    expect(queue.fireDue(20)).toBe(3);
    expect(fired).toEqual(["a@10", "d@20", "b@20"]);
    expect(queue.nextDeadline).toBe(30);
    expect([a.deadline, c.deadline]).toEqual([undefined, 30]);
  });

  it("keeps its order through many arms, re-arms and cancels", () => {
    const queue = new TimerQueue();
    const fired: number[] = [];
    let seed = 12345;
    const random = (): number => {
      seed = (seed * 1103515245 + 12345) % 2147483648;
      return seed;
    };
    const timers = Array.from({ length: 200 }, () => queue.timer((deadline) => fired.push(deadline)));
    for (let i = 0; i < 2000; i++) {
      const timer = timers[random() % timers.length]!;
      if (random() % 4 === 0) timer.cancel();
      else timer.arm(random() % 1000);
    }
    const expected = timers.flatMap((timer) => timer.deadline ?? []).sort((x, y) => x - y);
    expect(queue.size).toBe(expected.length);
    queue.fireDue(1000);
    expect(fired).toEqual(expected);
    expect(queue.nextDeadline).toBe(Number.POSITIVE_INFINITY);
  });

  it("fires a timer that re-arms itself for the past, yet comes to an end", () => {
    const queue = new TimerQueue();
    const timer = queue.timer((deadline) => timer.arm(deadline));
    timer.arm(5);
    const count = queue.fireDue(10);
    expect(count).toBeGreaterThan(1);
    expect(timer.deadline).toBe(5);
  });

  it("lets a callback cancel a timer that is due in the same call", () => {
    const queue = new TimerQueue();
    let isFired = false;
    const victim = queue.timer(() => {
      isFired = true;
    });
    const killer = queue.timer(() => victim.cancel());
    killer.arm(1);
    victim.arm(2);
    queue.fireDue(10);
    expect(isFired).toBe(false);
  });

  it("tells of an earlier deadline only, and refuses NaN", () => {
    const queue = new TimerQueue();
    let earlier = 0;
    queue.onEarlier = () => earlier++;
    const [a, b] = [queue.timer(() => {}), queue.timer(() => {})];
    a.arm(100);
    b.arm(200);
    b.arm(50);
    expect(earlier).toBe(2);
    expect(() => a.arm(Number.NaN)).toThrow(RangeError);
    a.arm(Number.POSITIVE_INFINITY);
    expect(a.deadline).toBeUndefined();
  });
});

describe("RealClock", () => {
  it("stands still while paused and never goes back", () => {
    let ms = 1000;
    const clock = new RealClock({ hostMs: () => ms, wallMs: () => 42 });
    expect(clock.now()).toBe(0);
    ms += 5;
    expect(clock.now()).toBe(0);
    clock.resume();
    ms += 5;
    expect(clock.now()).toBe(5_000_000);
    ms -= 3;
    expect(clock.now()).toBe(5_000_000);
    ms += 3;
    clock.pause();
    ms += 1000;
    clock.resume();
    ms += 1;
    expect(clock.now()).toBe(6_000_000);
    expect(clock.wallTimeMs()).toBe(42);
  });

  it("gives a TSC that does not fall behind what a slice interpolated", () => {
    const ms = 0;
    const clock = new RealClock({ hostMs: () => ms, tscHz: 2_000_000_000 });
    clock.resume();
    clock.now();
    const start = clock.tsc();
    const perInstruction = clock.tscPerInstruction;
    clock.retired(1000);
    clock.now();
    expect(clock.tsc()).toBe(start + BigInt(Math.floor(1000 * perInstruction)));
  });

  it("does not let the TSC run away from the clock when the host stalls and then is quick", () => {
    let ms = 0;
    const clock = new RealClock({ hostMs: () => ms });
    clock.resume();
    const slice = (count: number, hostMs: number): void => {
      clock.now();
      clock.tsc();
      const { tscPerInstruction } = clock;
      expect(tscPerInstruction).toBeGreaterThan(0);
      ms += hostMs;
      clock.retired(count);
    };
    for (let i = 0; i < 10; i++) slice(50_000, 500); // 10,000 ns an instruction: a host busy elsewhere
    for (let i = 0; i < 1000; i++) {
      slice(2000, 0.004); // 2 ns an instruction, in runs too short to tell much
      clock.now();
      expect(Number(clock.tsc()) - clock.now()).toBeLessThan(1_500_000);
    }
    expect(Number(clock.tsc()) - clock.now()).toBeLessThan(10_000);
  });

  it("makes a budget from the measured pace", () => {
    let ms = 0;
    const clock = new RealClock({ hostMs: () => ms });
    clock.resume();
    clock.timer(() => {}).arm(1_000_000_000);
    for (let i = 0; i < 100; i++) {
      clock.now();
      clock.tsc();
      ms += 1;
      clock.retired(500_000);
    }
    clock.timers.fireDue(0);
    clock.timer(() => {}).arm(clock.now() + 2000);
    // 2 ns an instruction: 2000 ns are about 1000 instructions.
    expect(clock.budget(50_000)).toBeGreaterThan(900);
    expect(clock.budget(50_000)).toBeLessThan(1100);
    expect(clock.budget(10)).toBe(10);
  });

  it("goes on from a saved state", () => {
    let ms = 0;
    const first = new RealClock({ hostMs: () => ms });
    first.resume();
    ms = 7;
    const state = first.save();
    const second = new RealClock({ hostMs: () => ms });
    second.restore(structuredClone(state));
    second.resume();
    ms += 1;
    expect(second.now()).toBe(8_000_000);
    expect(second.tsc()).toBe(8_000_000n);
    expect(() => second.restore({ ...state, nowNs: -1 })).toThrow(/clock\.nowNs/);
    expect(() => second.restore({ ...state, tscHz: 5 })).toThrow(/clock\.tscHz/);
    expect(() => second.restore(null)).toThrow(/clock/);
  });
});

describe("InstructionClock", () => {
  it("advances by instructions only, exactly", () => {
    const clock = new InstructionClock({ nsPerInstruction: 0.25, tscHz: 4_000_000_000 });
    clock.retired(3);
    expect(clock.now()).toBe(0);
    expect(clock.tsc()).toBe(3n);
    clock.retired(2);
    expect(clock.now()).toBe(1);
    expect(clock.tsc()).toBe(5n);
  });

  it("ends a budget exactly at the next deadline", () => {
    const clock = new InstructionClock({ nsPerInstruction: 0.5 });
    clock.timer(() => {}).arm(10);
    expect(clock.budget(50_000)).toBe(20);
    expect(clock.budget(7)).toBe(7);
    clock.retired(20);
    expect(clock.now()).toBe(10);
    expect(clock.budget(50_000)).toBe(1);
  });

  it("jumps to a deadline, not to never", () => {
    const clock = new InstructionClock({ wallTimeMs: 1000 });
    expect(clock.skipTo(5_000_000)).toBe(true);
    expect(clock.now()).toBe(5_000_000);
    expect(clock.wallTimeMs()).toBe(1005);
    expect(clock.skipTo(1)).toBe(true);
    expect(clock.now()).toBe(5_000_000);
    expect(clock.skipTo(Number.POSITIVE_INFINITY)).toBe(false);
  });

  it("goes on from a saved state, part of a nanosecond included", () => {
    const first = new InstructionClock({ nsPerInstruction: 0.3, wallTimeMs: 0 });
    const second = new InstructionClock({ nsPerInstruction: 0.3, wallTimeMs: 999 });
    first.retired(101);
    second.restore(structuredClone(first.save()));
    for (const clock of [first, second]) clock.retired(101);
    expect(second.save()).toEqual(first.save());
  });

  it("refuses options that make no sense", () => {
    expect(() => new InstructionClock({ nsPerInstruction: 0 })).toThrow(/nsPerInstruction/);
    expect(() => new InstructionClock({ tscHz: 1.5 })).toThrow(/tscHz/);
    expect(() => new InstructionClock({ wallTimeMs: Number.NaN })).toThrow(/wallTimeMs/);
  });
});
