import { HostScheduler } from "@skep/vcpu";
import { describe, expect, it } from "vitest";

describe("HostScheduler", () => {
  it("yields to what the event loop has due", async () => {
    const scheduler = new HostScheduler();
    const order: string[] = [];
    setImmediate(() => order.push("event loop"));
    await scheduler.yield();
    await scheduler.yield();
    order.push("back");
    expect(order).toEqual(["event loop", "back"]);
  });

  it("sleeps no shorter than asked", async () => {
    const scheduler = new HostScheduler();
    for (const ns of [0, 50_000, 3_400_000]) {
      const start = scheduler.hostMs();
      await scheduler.sleep(ns, new AbortController().signal);
      expect(scheduler.hostMs() - start).toBeGreaterThanOrEqual(ns / 1e6);
    }
  });

  it("wakes from an endless sleep, and does not start one that is over", async () => {
    const scheduler = new HostScheduler();
    const wake = new AbortController();
    const slept = scheduler.sleep(Number.POSITIVE_INFINITY, wake.signal);
    wake.abort();
    await slept;
    await scheduler.sleep(Number.POSITIVE_INFINITY, wake.signal);
  });
});
