/**
 * 8259s and I/O APIC between the form that every engine's have and KVM's (struct kvm_pic_state, kvm_ioapic_state).
 *
 * KVM's 8259 is less: it knows ICW1 and ICW4 by what they do, takes one that waits for its first ICW1 for one that is
 * ready, and pulses the master's input 2 where the slave's INT is a level. What of that matters is worked out here; the
 * rest (bits without effect) is not kept.
 *
 * KVM's I/O APIC keeps the levels of level-triggered inputs only, and edges that came while their input was masked, which
 * it does not deliver either. So the wires' levels come from whoever drives them.
 */
import {
  IOAPIC_INPUTS,
  type IoApicStateV1,
  type Pic8259ChipStateV1,
  type Pic8259StateV1,
} from "../irqchip-state.ts";
import { StateReader } from "../state-reader.ts";
import { Struct } from "./structs.ts";

/** Bytes of the union in struct kvm_irqchip. */
const CHIP_BYTES = 512;

// 8259.

/** struct kvm_pic_state, u8 each. */
const Pic = {
  LAST_IRR: 0,
  IRR: 1,
  IMR: 2,
  ISR: 3,
  PRIORITY_ADD: 4,
  IRQ_BASE: 5,
  READ_REG_SELECT: 6,
  POLL: 7,
  SPECIAL_MASK: 8,
  INIT_STATE: 9,
  AUTO_EOI: 10,
  ROTATE_ON_AUTO_EOI: 11,
  SPECIAL_FULLY_NESTED: 12,
  INIT4: 13,
  ELCR: 14,
  ELCR_MASK: 15,
} as const;
/** Inputs that can be level-triggered: all but the timer's, keyboard's, cascade, RTC's and coprocessor's. */
const ELCR_MASK = { master: 0xf8, slave: 0xde } as const;
/** What the wiring makes of ICW3. */
const ICW3 = { master: 0x04, slave: 0x02 } as const;
const ICW1 = { INIT: 0x10, SINGLE: 0x02, NEEDS_ICW4: 0x01 } as const;
const ICW4 = { SPECIAL_NESTED: 0x10, AUTO_EOI: 0x02, MODE_8086: 0x01 } as const;
const Step = { RESET: 0, ICW2: 2, READY: 5 } as const;
const CASCADE_BIT = 1 << 2;
const NONE = 8;

type Which = "master" | "slave";

/** @param master, slave the chips' bytes, as KVM_GET_IRQCHIP gives them. */
export function picFromKvm(master: Uint8Array, slave: Uint8Array): Pic8259StateV1 {
  const second = picChipFromKvm(new Struct(slave), "slave");
  const first = picChipFromKvm(new Struct(master), "master");
  const hasSlaveInt = request(second) < NONE;
  const cascade = (bits: number): number => (hasSlaveInt ? bits | CASCADE_BIT : bits & ~CASCADE_BIT);
  return {
    kind: "pic8259",
    version: 1,
    master: { ...first, latch: cascade(first.latch), levels: cascade(first.levels) },
    slave: second,
  };
}

/**
 * @param path of the state, for errors.
 * @throws StateError naming the field that KVM's 8259 cannot hold.
 */
export function picToKvm(
  { master, slave }: Pic8259StateV1,
  path: string,
): { readonly master: Uint8Array; readonly slave: Uint8Array } {
  return {
    // The slave's INT is a pulse there: nothing of it is a level.
    master: picChipToKvm({ ...master, levels: master.levels & ~CASCADE_BIT }, "master", `${path}.master`),
    slave: picChipToKvm(slave, "slave", `${path}.slave`),
  };
}

/** Level of INTR. */
export function picIntr({ master }: Pic8259StateV1): boolean {
  return request(master) < NONE;
}

function picChipFromKvm(chip: Struct, which: Which): Pic8259ChipStateV1 {
  const flag = (at: number): boolean => chip.u8(at) !== 0;
  const elcr = chip.u8(Pic.ELCR);
  const waits = chip.u8(Pic.INIT_STATE);
  // Vectors from 0, nothing masked, and no ICW4: nobody has initialised it.
  const isReset = waits === 0 && chip.u8(Pic.IRQ_BASE) === 0 && chip.u8(Pic.IMR) === 0 && !flag(Pic.INIT4);
  return {
    step: isReset ? Step.RESET : waits === 0 ? Step.READY : waits + 1,
    icw1: isReset ? 0 : ICW1.INIT | (flag(Pic.INIT4) ? ICW1.NEEDS_ICW4 : 0),
    icw2: chip.u8(Pic.IRQ_BASE),
    icw3: isReset ? 0 : ICW3[which],
    icw4:
      (flag(Pic.INIT4) ? ICW4.MODE_8086 : 0) |
      (flag(Pic.AUTO_EOI) ? ICW4.AUTO_EOI : 0) |
      (flag(Pic.SPECIAL_FULLY_NESTED) ? ICW4.SPECIAL_NESTED : 0),
    imr: chip.u8(Pic.IMR),
    isr: chip.u8(Pic.ISR),
    latch: chip.u8(Pic.IRR) & ~elcr,
    levels: chip.u8(Pic.LAST_IRR),
    elcr,
    lowest: (chip.u8(Pic.PRIORITY_ADD) + 7) & 7,
    rotateOnAutoEoi: flag(Pic.ROTATE_ON_AUTO_EOI),
    specialMask: flag(Pic.SPECIAL_MASK),
    readIsr: flag(Pic.READ_REG_SELECT),
    poll: flag(Pic.POLL),
  };
}

function picChipToKvm(chip: Pic8259ChipStateV1, which: Which, path: string): Uint8Array {
  const from = new StateReader(chip, path);
  const isSingle = chip.step === Step.ICW2 && (chip.icw1 & ICW1.SINGLE) !== 0;
  from.check("icw1", !isSingle, "no single mode: KVM's 8259 always waits for ICW3");
  const bytes = new Uint8Array(CHIP_BYTES);
  const set = (at: number, value: number | boolean): void => {
    bytes[at] = Number(value);
  };
  const elcr = chip.elcr & ELCR_MASK[which];
  set(Pic.LAST_IRR, chip.levels);
  set(Pic.IRR, (chip.latch & ~elcr) | (chip.levels & elcr));
  set(Pic.IMR, chip.imr);
  set(Pic.ISR, chip.isr);
  set(Pic.PRIORITY_ADD, (chip.lowest + 1) & 7);
  set(Pic.IRQ_BASE, chip.icw2 & 0xf8);
  set(Pic.READ_REG_SELECT, chip.readIsr);
  set(Pic.POLL, chip.poll);
  set(Pic.SPECIAL_MASK, chip.specialMask);
  const isWaiting = chip.step >= Step.ICW2 && chip.step < Step.READY;
  set(Pic.INIT_STATE, isWaiting ? chip.step - 1 : 0);
  set(Pic.AUTO_EOI, (chip.icw4 & ICW4.AUTO_EOI) !== 0);
  set(Pic.ROTATE_ON_AUTO_EOI, chip.rotateOnAutoEoi);
  set(Pic.SPECIAL_FULLY_NESTED, (chip.icw4 & ICW4.SPECIAL_NESTED) !== 0);
  set(Pic.INIT4, (chip.icw1 & ICW1.NEEDS_ICW4) !== 0);
  set(Pic.ELCR, elcr);
  set(Pic.ELCR_MASK, ELCR_MASK[which]);
  return bytes;
}

/** Place of the input that asks the processor, 0 the most urgent; `NONE` where none does. */
function request(chip: Pic8259ChipStateV1): number {
  if (chip.step !== Step.READY) return NONE;
  const rank = (bits: number): number => {
    for (let place = 0; place < NONE; place++)
      if ((bits >>> ((place + chip.lowest + 1) & 7)) & 1) return place;
    return NONE;
  };
  const asking = rank((chip.latch | (chip.levels & chip.elcr)) & ~chip.imr);
  const serving = rank(chip.specialMask ? chip.isr & ~chip.imr : chip.isr);
  const input = (asking + chip.lowest + 1) & 7;
  const isNested = (chip.icw4 & ICW4.SPECIAL_NESTED) !== 0 && 1 << input === CASCADE_BIT;
  return asking < serving || (asking === serving && asking < NONE && isNested) ? asking : NONE;
}

// I/O APIC.

/** struct kvm_ioapic_state. */
const IoApic = { BASE_ADDRESS: 0, SELECT: 8, ID: 12, IRR: 16, REDIRECTION: 24 } as const;
const IOAPIC_BASE = 0xfec0_0000n;
const ENTRY_BYTES = 8;
const RTE = { DELIVERY_STATUS: 0x1000, TRIGGER_LEVEL: 0x8000, BITS: 0x1_ffff } as const;
const RTE_HIGH_BITS = 0xff00_0000;

/** @param levels of the inputs, bit n for input n. */
export function ioApicFromKvm(bytes: Uint8Array, levels: number): IoApicStateV1 {
  const chip = new Struct(bytes);
  const halves = (at: number, bits: number): number[] =>
    Array.from({ length: IOAPIC_INPUTS }, (_, input) => {
      return (chip.u32(IoApic.REDIRECTION + ENTRY_BYTES * input + at) & bits) >>> 0;
    });
  return {
    kind: "ioapic",
    version: 1,
    id: chip.u32(IoApic.ID) & 0xf,
    select: chip.u32(IoApic.SELECT) & 0xff,
    low: halves(0, RTE.BITS & ~RTE.DELIVERY_STATUS),
    high: halves(4, RTE_HIGH_BITS),
    levels,
  };
}

export function ioApicToKvm(state: IoApicStateV1): Uint8Array {
  const bytes = new Uint8Array(new ArrayBuffer(CHIP_BYTES));
  const chip = new Struct(bytes);
  chip.setU64(IoApic.BASE_ADDRESS, IOAPIC_BASE);
  chip.setU32(IoApic.SELECT, state.select);
  chip.setU32(IoApic.ID, state.id);
  let irr = 0;
  for (let input = 0; input < IOAPIC_INPUTS; input++) {
    const low = state.low[input]!;
    const at = IoApic.REDIRECTION + ENTRY_BYTES * input;
    chip.setU32(at, low);
    chip.setU32(at + 4, state.high[input]!);
    // An edge would be delivered again.
    if ((low & RTE.TRIGGER_LEVEL) !== 0) irr |= state.levels & (1 << input);
  }
  chip.setU32(IoApic.IRR, irr);
  return bytes;
}
