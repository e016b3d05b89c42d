/**
 * What a PC's interrupt controllers save, in one shape wherever they are: in `@skep/chipset`'s chips, or in the kernel
 * behind KVM's engine. Plain data; registers as the guest reads them, and beside them only what no register shows.
 *
 * Levels are those of wires, `true` for asserted. They are part of the state so that a device which drives its line
 * anew after a restore is not taken for an edge.
 */
import { StateReader } from "./state-reader.ts";

/** Entries of a local vector table, in the order of their registers: CMCI, timer, thermal, performance, LINT0, LINT1, error. */
export const LVT_ENTRIES = 7;
/** Inputs of the I/O APIC. */
export const IOAPIC_INPUTS = 24;
/** The most of `LocalApicTimerStateV1.sinceFireNs` that matters. */
export const MAX_SINCE_FIRE_NS = 20_000;

const U32 = 0xffff_ffff;
/** Bits of an LVT entry (SDM Vol. 3A fig. 11-8). */
const LVT_BITS = 0x7_ffff;
const APIC_ENABLED = 0x800n;
const APIC_EXTENDED = 0x400n;
/** Vectors below 16 are exceptions': no APIC requests them (SDM Vol. 3A sec. 11.5.2). */
const EXCEPTION_VECTORS = 0xffff;
const RTE_LOW_BITS = 0x1_ffff;
/** Ticks as state: the ages of counters that may run for years, and a little of the future. */
const MAX_TICKS = 2 ** 52;

/** The local APIC's timer: what its LVT entry does not say (SDM Vol. 3A sec. 11.5.4). */
export interface LocalApicTimerStateV1 {
  kind: "lapic-timer";
  version: 1;
  initialCount: number;
  divideConfig: number;
  /** Count at the start of the running countdown; 0: stopped. */
  startCount: number;
  /** Time since that start, in ns; fractions of periods that are no whole number. */
  elapsedNs: number;
  /** Time since the last interrupt of a periodic timer, in ns; at most `MAX_SINCE_FIRE_NS`. */
  sinceFireNs: number;
  /** IA32_TSC_DEADLINE. */
  deadline: bigint;
}

/** One local APIC (SDM Vol. 3A ch. 11). */
export interface LocalApicStateV1 {
  kind: "lapic";
  version: 1;
  /** IA32_APIC_BASE. */
  apicBase: bigint;
  tpr: number;
  /** xAPIC's; in x2APIC mode it follows from the ID. */
  ldr: number;
  dfr: number;
  svr: number;
  esr: number;
  /** Errors since ESR was last written, and whether their interrupt has been raised. */
  errors: number;
  errorRaised: boolean;
  icrLow: number;
  icrHigh: number;
  /** CMCI, timer, thermal, performance, LINT0, LINT1, error. */
  lvt: number[];
  isr: number[];
  tmr: number[];
  irr: number[];
  /** An ExtINT message waits for its INTA cycle. */
  extInt: boolean;
  /** Levels of the pins. */
  lint0: boolean;
  lint1: boolean;
  timer: LocalApicTimerStateV1;
}

/** I/O APIC (Intel 82093AA, ICH). */
export interface IoApicStateV1 {
  kind: "ioapic";
  version: 1;
  id: number;
  select: number;
  /** Redirection entries' low and high halves, remote IRR included. */
  low: number[];
  high: number[];
  /** Levels of the inputs, bit n for input n. */
  levels: number;
}

/** One 8259A. */
export interface Pic8259ChipStateV1 {
  /** Initialisation step: 0 before the first ICW1, 2 to 4 the ICW awaited, 5 initialised. */
  step: number;
  icw1: number;
  icw2: number;
  icw3: number;
  icw4: number;
  imr: number;
  isr: number;
  /** Latched edges. */
  latch: number;
  /** Levels of the inputs. */
  levels: number;
  elcr: number;
  /** Input with the lowest priority. */
  lowest: number;
  rotateOnAutoEoi: boolean;
  specialMask: boolean;
  readIsr: boolean;
  poll: boolean;
}

/** Two 8259As; the master's input 2 is the slave's INT. */
export interface Pic8259StateV1 {
  kind: "pic8259";
  version: 1;
  master: Pic8259ChipStateV1;
  slave: Pic8259ChipStateV1;
}

/** One counter of the 8254. Its ticks are those of the 1.193182 MHz input. */
export interface PitCounterStateV1 {
  /** Control word without the counter select, 6 bits. */
  control: number;
  gate: boolean;
  /** Whether a count was written since the control word. */
  counted: boolean;
  /** Whether the counting element has been loaded since the control word. */
  running: boolean;
  /** Count register, as the number of ticks it stands for (1 to 65,536). */
  countRegister: number;
  /** Ticks that the counting element was loaded with. */
  n: number;
  /** Tick of that load, relative to the tick of the save (mostly negative). */
  origin: number;
  /** OUT until `origin`. */
  before: boolean;
  /** Ticks counted when the gate stopped the counter, or -1 while it counts. */
  held: number;
  /** Tick, relative to the save, at which the count register replaces `n` (modes 2 and 3); absent: not pending. */
  pendingAt?: number;
  /** Tick, relative to the save, until which NULL COUNT reads as 1; absent: until a trigger or a count. */
  nullUntil?: number;
  /** First byte of a two-byte write, or -1. */
  writeLow: number;
  /** Whether the next read of a two-byte read gives the high byte. */
  readHigh: boolean;
  /** Latched count in the register's own encoding, or -1. */
  latchedCount: number;
  /** Latched status byte, or -1. */
  latchedStatus: number;
}

/** The 8254. */
export interface Pit8254StateV1 {
  kind: "pit8254";
  version: 1;
  /** Counters 0 to 2. */
  counters: PitCounterStateV1[];
}

/** A PC's interrupt controllers: what every `EngineIrqChip` saves. */
export interface IrqChipStateV1 {
  kind: "irqchip";
  version: 1;
  /** One for each vCPU. */
  lapics: LocalApicStateV1[];
  ioapic: IoApicStateV1;
  pic: Pic8259StateV1;
  /** Which local APIC lowest-priority arbitration begins with. */
  turn: number;
  /** The 8254 where it is one of these chips, as KVM's is. */
  pit?: Pit8254StateV1;
  /** Bit 1 of port 0x61 where that port is the 8254's. */
  speaker?: boolean;
}

/**
 * Checks the states of a PC's interrupt controllers and gives a clean copy.
 *
 * @throws StateError where a field is not what such a chip can hold, or there are not as many local APICs.
 */
export function parseIrqChipState(state: unknown, vcpus: number): IrqChipStateV1 {
  const from = new StateReader(state, "irqchip", 1);
  return {
    kind: "irqchip",
    version: 1,
    lapics: parseLocalApicStates(from, vcpus),
    ioapic: parseIoApicState(from.unknown("ioapic")),
    pic: parsePic8259State(from.unknown("pic")),
    turn: from.uint("turn", vcpus - 1),
    ...(from.has("pit") && {
      pit: parsePit8254State(from.unknown("pit")),
      speaker: from.boolean("speaker"),
    }),
  };
}

/** The field `lapics` of a state with local APICs. @throws StateError naming the APIC. */
export function parseLocalApicStates(from: StateReader, vcpus: number): LocalApicStateV1[] {
  return from.array("lapics", vcpus).map((lapic) => parseLocalApicState(lapic));
}

/** @throws StateError */
export function parseLocalApicState(state: unknown): LocalApicStateV1 {
  const from = new StateReader(state, "lapic", 1);
  const apicBase = from.u64("apicBase");
  const isInvalidMode = (apicBase & (APIC_EXTENDED | APIC_ENABLED)) === APIC_EXTENDED;
  from.check("apicBase", !isInvalidMode, "a valid IA32_APIC_BASE");
  const vectors = (field: string): number[] => {
    const words = from.uints(field, 8, U32);
    from.check(field, (words[0]! & EXCEPTION_VECTORS) === 0, "no vector below 16");
    return words;
  };
  return {
    kind: "lapic",
    version: 1,
    apicBase,
    tpr: from.uint("tpr", 0xff),
    ldr: from.uint("ldr", U32),
    dfr: from.uint("dfr", U32),
    svr: from.uint("svr", 0xffff),
    esr: from.uint("esr", 0xff),
    errors: from.uint("errors", 0xff),
    errorRaised: from.boolean("errorRaised"),
    icrLow: from.uint("icrLow", U32),
    icrHigh: from.uint("icrHigh", U32),
    lvt: from.uints("lvt", LVT_ENTRIES, LVT_BITS),
    isr: vectors("isr"),
    tmr: vectors("tmr"),
    irr: vectors("irr"),
    extInt: from.boolean("extInt"),
    lint0: from.boolean("lint0"),
    lint1: from.boolean("lint1"),
    timer: parseLocalApicTimerState(from.unknown("timer")),
  };
}

/** @throws StateError */
export function parseLocalApicTimerState(state: unknown): LocalApicTimerStateV1 {
  const from = new StateReader(state, "lapic-timer", 1);
  return {
    kind: "lapic-timer",
    version: 1,
    initialCount: from.uint("initialCount", U32),
    divideConfig: from.uint("divideConfig", U32),
    startCount: from.uint("startCount", U32),
    elapsedNs: from.number("elapsedNs", Number.MAX_SAFE_INTEGER),
    sinceFireNs: from.number("sinceFireNs", MAX_SINCE_FIRE_NS),
    deadline: from.u64("deadline"),
  };
}

/** @throws StateError */
export function parseIoApicState(state: unknown): IoApicStateV1 {
  const from = new StateReader(state, "ioapic", 1);
  return {
    kind: "ioapic",
    version: 1,
    id: from.uint("id", 15),
    select: from.uint("select", 0xff),
    low: from.uints("low", IOAPIC_INPUTS, RTE_LOW_BITS),
    high: from.uints("high", IOAPIC_INPUTS, U32),
    levels: from.uint("levels", 2 ** IOAPIC_INPUTS - 1),
  };
}

/** @throws StateError */
export function parsePic8259State(state: unknown): Pic8259StateV1 {
  const from = new StateReader(state, "pic8259", 1);
  return {
    kind: "pic8259",
    version: 1,
    master: parsePic8259Chip(from.unknown("master"), "pic8259.master"),
    slave: parsePic8259Chip(from.unknown("slave"), "pic8259.slave"),
  };
}

function parsePic8259Chip(state: unknown, path: string): Pic8259ChipStateV1 {
  const from = new StateReader(state, path);
  const step = from.uint("step", 5);
  from.check("step", step !== 1, "an initialisation step: 0 or 2 to 5");
  return {
    step,
    icw1: from.uint("icw1", 0xff),
    icw2: from.uint("icw2", 0xff),
    icw3: from.uint("icw3", 0xff),
    icw4: from.uint("icw4", 0x1f),
    imr: from.uint("imr", 0xff),
    isr: from.uint("isr", 0xff),
    latch: from.uint("latch", 0xff),
    levels: from.uint("levels", 0xff),
    elcr: from.uint("elcr", 0xff),
    lowest: from.uint("lowest", 7),
    rotateOnAutoEoi: from.boolean("rotateOnAutoEoi"),
    specialMask: from.boolean("specialMask"),
    readIsr: from.boolean("readIsr"),
    poll: from.boolean("poll"),
  };
}

/** @throws StateError */
export function parsePit8254State(state: unknown): Pit8254StateV1 {
  const from = new StateReader(state, "pit8254", 1);
  return { kind: "pit8254", version: 1, counters: from.parts("counters", 3).map(parsePitCounter) };
}

function parsePitCounter(from: StateReader): PitCounterStateV1 {
  const ticks = (field: string): number => from.integer(field, -MAX_TICKS, MAX_TICKS);
  return {
    control: from.bits("control", 0x3f),
    gate: from.boolean("gate"),
    counted: from.boolean("counted"),
    running: from.boolean("running"),
    countRegister: from.integer("countRegister", 1, 0x1_0000),
    n: from.integer("n", 1, 0x1_0000),
    origin: ticks("origin"),
    before: from.boolean("before"),
    held: from.integer("held", -1, MAX_TICKS),
    ...(from.has("pendingAt") && { pendingAt: ticks("pendingAt") }),
    ...(from.has("nullUntil") && { nullUntil: ticks("nullUntil") }),
    writeLow: from.integer("writeLow", -1, 0xff),
    readHigh: from.boolean("readHigh"),
    latchedCount: from.integer("latchedCount", -1, 0xffff),
    latchedStatus: from.integer("latchedStatus", -1, 0xff),
  };
}
