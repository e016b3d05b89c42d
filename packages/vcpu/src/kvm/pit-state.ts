/**
 * The 8254 between the form that every engine's has and KVM's (struct kvm_pit_state2).
 *
 * KVM's always starts a count anew when it is told one: a counter goes on with its period, not where in it it was. It
 * counts no BCD and cannot stand between control word and count; states with either are refused by name.
 */
import type { Pit8254StateV1, PitCounterStateV1 } from "../irqchip-state.ts";
import { StateReader } from "../state-reader.ts";
import { Size, Struct } from "./structs.ts";

/** struct kvm_pit_channel_state. */
const Channel = {
  COUNT: 0, // u32, up to 65,536
  LATCHED_COUNT: 4, // u16
  COUNT_LATCHED: 6, // u8: 0 or what the next read gives
  STATUS_LATCHED: 7, // u8 from here on
  STATUS: 8,
  READ_STATE: 9,
  WRITE_STATE: 10,
  WRITE_LATCH: 11,
  RW_MODE: 12,
  MODE: 13,
  BCD: 14,
  GATE: 15,
  COUNT_LOAD_TIME: 16, // s64, CLOCK_MONOTONIC in ns
  BYTES: 24,
} as const;
/** `READ_STATE`, `WRITE_STATE`, `RW_MODE`, `COUNT_LATCHED`: which byte. Word 0 is the first of two. */
const Byte = { HIGH: 2, WORD0: 3, WORD1: 4 } as const;
/** A channel that was never programmed. */
const NO_MODE = 0xff;
/** `flags` behind the channels. */
const FLAGS = 72;
const FLAG_SPEAKER = 2;
const COUNTERS = 3;
/** Of a counter before its first control word: both bytes, mode 0. */
const RESET_CONTROL = 0x30;
const MAX_COUNT = 0x1_0000;
const PIT_HZ = 1_193_182;

/** @param nowNs CLOCK_MONOTONIC, by which the kernel remembers when a count was loaded. */
export function pitFromKvm(bytes: Uint8Array, nowNs: bigint): { pit: Pit8254StateV1; speaker: boolean } {
  const counters = Array.from({ length: COUNTERS }, (_, i) => {
    const channel = new Struct(bytes.subarray(Channel.BYTES * i, Channel.BYTES * (i + 1)));
    return counterFromKvm(channel, nowNs);
  });
  const speaker = (new Struct(bytes).u32(FLAGS) & FLAG_SPEAKER) !== 0;
  return { pit: { kind: "pit8254", version: 1, counters }, speaker };
}

/**
 * @param path of the state, for errors.
 * @throws StateError naming the field that KVM's 8254 cannot hold.
 */
export function pitToKvm({ counters }: Pit8254StateV1, speaker: boolean, path: string): Uint8Array {
  const bytes = new Uint8Array(new ArrayBuffer(Size.PIT_STATE2));
  counters.forEach((counter, i) => {
    const channel = new Struct(bytes.subarray(Channel.BYTES * i, Channel.BYTES * (i + 1)));
    counterToKvm(counter, channel, `${path}.counters[${i}]`);
  });
  new Struct(bytes).setU32(FLAGS, speaker ? FLAG_SPEAKER : 0);
  return bytes;
}

function counterFromKvm(channel: Struct, nowNs: bigint): PitCounterStateV1 {
  const mode = channel.u8(Channel.MODE);
  const rwMode = channel.u8(Channel.RW_MODE);
  const isProgrammed = mode !== NO_MODE;
  const count = channel.u32(Channel.COUNT) || MAX_COUNT;
  const sinceNs = nowNs - channel.u64(Channel.COUNT_LOAD_TIME);
  const elapsed = isProgrammed ? Math.max(0, Math.floor((Number(sinceNs) * PIT_HZ) / 1e9)) : 0;
  const gate = channel.u8(Channel.GATE) !== 0;
  const stopsAtGate = mode !== 1 && mode !== 5;
  const latched = channel.u8(Channel.COUNT_LATCHED);
  const state: PitCounterStateV1 = {
    control: isProgrammed ? (rwMode << 4) | (mode << 1) | channel.u8(Channel.BCD) : RESET_CONTROL,
    gate,
    counted: isProgrammed,
    running: isProgrammed,
    countRegister: count,
    n: count,
    origin: 0 - elapsed,
    before: isProgrammed && mode !== 0,
    held: isProgrammed && !gate && stopsAtGate ? elapsed : -1,
    writeLow: channel.u8(Channel.WRITE_STATE) === Byte.WORD1 ? channel.u8(Channel.WRITE_LATCH) : -1,
    readHigh:
      channel.u8(Channel.READ_STATE) === Byte.WORD1 || (latched === Byte.HIGH && rwMode === Byte.WORD0),
    latchedCount: latched === 0 ? -1 : channel.u16(Channel.LATCHED_COUNT),
    latchedStatus: channel.u8(Channel.STATUS_LATCHED) === 0 ? -1 : channel.u8(Channel.STATUS),
  };
  if (isProgrammed) state.nullUntil = 0 - elapsed;
  return state;
}

function counterToKvm(counter: PitCounterStateV1, channel: Struct, path: string): void {
  const { control } = counter;
  const from = new StateReader(counter, path);
  from.check("control", (control & 1) === 0, "no BCD: KVM's 8254 counts in binary");
  const isReset = !counter.counted && control === RESET_CONTROL;
  from.check("counted", counter.counted || isReset, "true: KVM's 8254 cannot wait for a count");
  const rwMode = (control >> 4) & 3;
  const mode = (control >> 1) & 7;
  channel.setU32(Channel.COUNT, counter.countRegister);
  channel.setU8(Channel.MODE, isReset ? NO_MODE : mode > 5 ? mode - 4 : mode);
  channel.setU8(Channel.RW_MODE, isReset ? 0 : rwMode);
  channel.setU8(Channel.GATE, counter.gate ? 1 : 0);
  const isWriting = counter.writeLow >= 0;
  channel.setU8(Channel.WRITE_STATE, isReset ? 0 : isWriting ? Byte.WORD1 : rwMode);
  channel.setU8(Channel.WRITE_LATCH, isWriting ? counter.writeLow : 0);
  const isLatched = counter.latchedCount >= 0;
  channel.setU8(Channel.READ_STATE, isReset ? 0 : counter.readHigh && !isLatched ? Byte.WORD1 : rwMode);
  if (isLatched) {
    channel.setU8(Channel.COUNT_LATCHED, counter.readHigh ? Byte.HIGH : rwMode);
    channel.setU16(Channel.LATCHED_COUNT, counter.latchedCount);
  }
  if (counter.latchedStatus >= 0) {
    channel.setU8(Channel.STATUS_LATCHED, 1);
    channel.setU8(Channel.STATUS, counter.latchedStatus);
  }
}
