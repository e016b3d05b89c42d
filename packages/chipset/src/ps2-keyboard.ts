/**
 * PS/2 keyboard, scan code set 2 (IBM PS/2 Hardware Interface Technical Reference, "Keyboard"): answers every
 * command that a driver probes with, and sends the scan codes that the host side gives it.
 *
 * Missing: scan code sets 1 and 3 (asked for, they are refused with RESEND; the controller translates to set 1
 * by itself), and typematic repeat, which is the host's.
 */

import { StateReader } from "@skep/vcpu";
import { MAX_REPLY_BYTES, PS2_COMMAND, PS2_REPLY, type Ps2Device, Ps2Queue } from "./ps2-device.ts";

/** Commands of the keyboard alone. */
export const KEYBOARD_COMMAND = {
  /** One parameter: scroll lock 0x01, num lock 0x02, caps lock 0x04. */
  SET_LEDS: 0xed,
  ECHO: 0xee,
  /** One parameter: the set, or 0 to be told. */
  SCAN_CODE_SET: 0xf0,
} as const;

const IDENTITY = [0xab, 0x83] as const;
const SCAN_CODE_SET = 2;
const QUEUE_BYTES = 16;
const TYPEMATIC_DEFAULT = 0x2b;

export interface Ps2KeyboardStateV1 {
  kind: "ps2-keyboard";
  version: 1;
  scanning: boolean;
  leds: number;
  typematic: number;
  /** Command whose parameter is awaited, or 0. */
  command: number;
  replies: number[];
  reports: number[];
  last: number;
}

export class Ps2Keyboard implements Ps2Device {
  onData: (() => void) | undefined;
  readonly #queue = new Ps2Queue(QUEUE_BYTES);
  #scanning = true;
  #leds = 0;
  #typematic = TYPEMATIC_DEFAULT;
  #command = 0;

  /** LEDs that the guest has lit, as SET_LEDS gives them. */
  get leds(): number {
    return this.#leds;
  }

  /**
   * A key goes down or up: its bytes in scan code set 2, e.g. [0x1C] and [0xF0, 0x1C] for A. False where the guest
   * has scanning off or does not read fast enough; nothing is sent then.
   */
  sendScanCode(bytes: ArrayLike<number>): boolean {
    if (!this.#scanning || !this.#queue.report(bytes)) return false;
    this.onData?.();
    return true;
  }

  receive(byte: number): void {
    const command = this.#command;
    this.#command = 0;
    if (command === KEYBOARD_COMMAND.SET_LEDS && byte < 0x80) {
      this.#leds = byte & 7;
      this.#queue.reply(PS2_REPLY.ACK);
    } else if (command === PS2_COMMAND.SET_RATE && byte < 0x80) {
      this.#typematic = byte;
      this.#queue.reply(PS2_REPLY.ACK);
    } else if (command === KEYBOARD_COMMAND.SCAN_CODE_SET && byte < 0x80) {
      this.#selectSet(byte);
    } else {
      // A byte of 0x80 or more in a parameter's place is a new command.
      this.#start(byte);
    }
    this.onData?.();
  }

  next(): number | undefined {
    return this.#queue.take();
  }

  reset(): void {
    this.#setDefaults();
    this.#scanning = true;
    this.#command = 0;
    this.#queue.reply();
  }

  save(): Ps2KeyboardStateV1 {
    return {
      kind: "ps2-keyboard",
      version: 1,
      scanning: this.#scanning,
      leds: this.#leds,
      typematic: this.#typematic,
      command: this.#command,
      ...this.#queue.save(),
    };
  }

  restore(state: unknown): void {
    const fields = new StateReader(state, "ps2-keyboard", 1);
    const scanning = fields.boolean("scanning");
    const leds = fields.bits("leds", 7);
    const typematic = fields.bits("typematic", 0x7f);
    const command = fields.bits("command", 0xff);
    const replies = fields.queue("replies", MAX_REPLY_BYTES, 0xff);
    const reports = fields.queue("reports", QUEUE_BYTES, 0xff);
    const last = fields.bits("last", 0xff);
    this.#scanning = scanning;
    this.#leds = leds;
    this.#typematic = typematic;
    this.#command = command;
    this.#queue.restore(replies, reports, last);
  }

  #start(command: number): void {
    switch (command) {
      case KEYBOARD_COMMAND.SET_LEDS:
      case KEYBOARD_COMMAND.SCAN_CODE_SET:
      case PS2_COMMAND.SET_RATE:
        this.#command = command;
        this.#queue.reply(PS2_REPLY.ACK);
        break;
      case KEYBOARD_COMMAND.ECHO:
        this.#queue.reply(PS2_REPLY.ECHO);
        break;
      case PS2_COMMAND.IDENTIFY:
        this.#queue.reply(PS2_REPLY.ACK, ...IDENTITY);
        break;
      case PS2_COMMAND.ENABLE:
        this.#queue.clearReports();
        this.#scanning = true;
        this.#queue.reply(PS2_REPLY.ACK);
        break;
      case PS2_COMMAND.DISABLE:
      case PS2_COMMAND.SET_DEFAULTS:
        this.#setDefaults();
        if (command === PS2_COMMAND.DISABLE) this.#scanning = false;
        this.#queue.reply(PS2_REPLY.ACK);
        break;
      case PS2_COMMAND.RESEND:
        this.#queue.resend();
        break;
      case PS2_COMMAND.RESET:
        this.reset();
        this.#queue.reply(PS2_REPLY.ACK, PS2_REPLY.BAT_OK);
        break;
      default:
        this.#queue.reply(PS2_REPLY.RESEND);
    }
  }

  #selectSet(set: number): void {
    if (set === 0) this.#queue.reply(PS2_REPLY.ACK, SCAN_CODE_SET);
    else this.#queue.reply(set === SCAN_CODE_SET ? PS2_REPLY.ACK : PS2_REPLY.RESEND);
  }

  #setDefaults(): void {
    this.#queue.clearReports();
    this.#leds = 0;
    this.#typematic = TYPEMATIC_DEFAULT;
  }
}
