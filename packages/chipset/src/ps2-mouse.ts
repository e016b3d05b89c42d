/**
 * Standard PS/2 mouse, two axes and three buttons, id 0 (IBM PS/2 Hardware Interface Technical Reference,
 * "Auxiliary Device"). Linux complains of an i8042 whose mouse port is declared but dead, or not declared at all.
 *
 * Missing: the wheel (IntelliMouse ids 3 and 4).
 */

import { StateReader } from "@skep/vcpu";
import { MAX_REPLY_BYTES, PS2_COMMAND, PS2_REPLY, type Ps2Device, Ps2Queue } from "./ps2-device.ts";

/** Commands of the mouse alone. */
export const MOUSE_COMMAND = {
  SCALING_1_1: 0xe6,
  SCALING_2_1: 0xe7,
  /** One parameter: counts per millimetre as a power of two, 0 to 3. */
  SET_RESOLUTION: 0xe8,
  STATUS: 0xe9,
  STREAM_MODE: 0xea,
  READ_DATA: 0xeb,
  LEAVE_WRAP_MODE: 0xec,
  WRAP_MODE: 0xee,
  REMOTE_MODE: 0xf0,
} as const;

/** First byte of the status answer; bits 2:0 are the buttons. */
const STATUS = { SCALING_2_1: 0x10, ENABLED: 0x20, REMOTE: 0x40 } as const;
/** First byte of a packet; bits 2:0 are the buttons. */
const PACKET = { ALWAYS: 0x08, X_SIGN: 0x10, Y_SIGN: 0x20 } as const;
const MOUSE_ID = 0x00;
const DEFAULT_RESOLUTION = 2;
const DEFAULT_RATE = 100;
const MAX_DELTA = 255;
const QUEUE_BYTES = 48;

export interface Ps2MouseStateV1 {
  kind: "ps2-mouse";
  version: 1;
  enabled: boolean;
  remote: boolean;
  wrap: boolean;
  scaling: boolean;
  resolution: number;
  rate: number;
  buttons: number;
  /** Command whose parameter is awaited, or 0. */
  command: number;
  replies: number[];
  reports: number[];
  last: number;
}

export class Ps2Mouse implements Ps2Device {
  onData: (() => void) | undefined;
  readonly #queue = new Ps2Queue(QUEUE_BYTES);
  #enabled = false;
  #remote = false;
  #wrap = false;
  #scaling = false;
  #resolution = DEFAULT_RESOLUTION;
  #rate = DEFAULT_RATE;
  #buttons = 0;
  #command = 0;

  /**
   * The mouse moved right by `dx` and up by `dy` counts (clamped to ± 255), with `buttons` down: left 1, right 2,
   * middle 4. False where reporting is off or the guest does not read fast enough.
   */
  move(dx: number, dy: number, buttons: number): boolean {
    this.#buttons = buttons & 7;
    if (!this.#enabled || this.#remote || !this.#queue.report(this.#packet(dx, dy))) return false;
    this.onData?.();
    return true;
  }

  receive(byte: number): void {
    const command = this.#command;
    this.#command = 0;
    if (this.#wrap && byte !== MOUSE_COMMAND.LEAVE_WRAP_MODE && byte !== PS2_COMMAND.RESET) {
      this.#queue.reply(byte);
    } else if (command === MOUSE_COMMAND.SET_RESOLUTION) {
      this.#resolution = byte & 3;
      this.#queue.reply(PS2_REPLY.ACK);
    } else if (command === PS2_COMMAND.SET_RATE) {
      this.#rate = byte;
      this.#queue.reply(PS2_REPLY.ACK);
    } else {
      this.#start(byte);
    }
    this.onData?.();
  }

  next(): number | undefined {
    return this.#queue.take();
  }

  reset(): void {
    this.#setDefaults();
    this.#remote = false;
    this.#wrap = false;
    this.#command = 0;
    this.#queue.reply();
  }

  save(): Ps2MouseStateV1 {
    return {
      kind: "ps2-mouse",
      version: 1,
      enabled: this.#enabled,
      remote: this.#remote,
      wrap: this.#wrap,
      scaling: this.#scaling,
      resolution: this.#resolution,
      rate: this.#rate,
      buttons: this.#buttons,
      command: this.#command,
      ...this.#queue.save(),
    };
  }

  restore(state: unknown): void {
    const fields = new StateReader(state, "ps2-mouse", 1);
    const enabled = fields.boolean("enabled");
    const remote = fields.boolean("remote");
    const wrap = fields.boolean("wrap");
    const scaling = fields.boolean("scaling");
    const resolution = fields.bits("resolution", 3);
    const rate = fields.bits("rate", 0xff);
    const buttons = fields.bits("buttons", 7);
    const command = fields.bits("command", 0xff);
    const replies = fields.queue("replies", MAX_REPLY_BYTES, 0xff);
    const reports = fields.queue("reports", QUEUE_BYTES, 0xff);
    const last = fields.bits("last", 0xff);
    this.#enabled = enabled;
    this.#remote = remote;
    this.#wrap = wrap;
    this.#scaling = scaling;
    this.#resolution = resolution;
    this.#rate = rate;
    this.#buttons = buttons;
    this.#command = command;
    this.#queue.restore(replies, reports, last);
  }

  #start(command: number): void {
    const { ACK } = PS2_REPLY;
    this.#queue.reply(ACK);
    switch (command) {
      case MOUSE_COMMAND.SCALING_1_1:
      case MOUSE_COMMAND.SCALING_2_1:
        this.#scaling = command === MOUSE_COMMAND.SCALING_2_1;
        break;
      case MOUSE_COMMAND.SET_RESOLUTION:
      case PS2_COMMAND.SET_RATE:
        this.#command = command;
        break;
      case MOUSE_COMMAND.STATUS:
        this.#queue.reply(ACK, this.#status(), this.#resolution, this.#rate);
        break;
      case MOUSE_COMMAND.STREAM_MODE:
      case MOUSE_COMMAND.REMOTE_MODE:
        this.#remote = command === MOUSE_COMMAND.REMOTE_MODE;
        this.#queue.clearReports();
        break;
      case MOUSE_COMMAND.READ_DATA:
        this.#queue.reply(ACK, ...this.#packet(0, 0));
        break;
      case MOUSE_COMMAND.WRAP_MODE:
      case MOUSE_COMMAND.LEAVE_WRAP_MODE:
        this.#wrap = command === MOUSE_COMMAND.WRAP_MODE;
        break;
      case PS2_COMMAND.IDENTIFY:
        this.#queue.reply(ACK, MOUSE_ID);
        break;
      case PS2_COMMAND.ENABLE:
      case PS2_COMMAND.DISABLE:
        this.#queue.clearReports();
        this.#enabled = command === PS2_COMMAND.ENABLE;
        break;
      case PS2_COMMAND.SET_DEFAULTS:
        this.#setDefaults();
        break;
      case PS2_COMMAND.RESEND:
        this.#queue.reply();
        this.#queue.resend();
        break;
      case PS2_COMMAND.RESET:
        this.reset();
        this.#queue.reply(ACK, PS2_REPLY.BAT_OK, MOUSE_ID);
        break;
      default:
        this.#queue.reply(PS2_REPLY.RESEND);
    }
  }

  #status(): number {
    return (
      this.#buttons |
      (this.#scaling ? STATUS.SCALING_2_1 : 0) |
      (this.#enabled ? STATUS.ENABLED : 0) |
      (this.#remote ? STATUS.REMOTE : 0)
    );
  }

  #packet(dx: number, dy: number): [number, number, number] {
    const clamp = (delta: number): number => Math.trunc(Math.max(-MAX_DELTA, Math.min(MAX_DELTA, delta)));
    const x = clamp(dx);
    const y = clamp(dy);
    const signs = (x < 0 ? PACKET.X_SIGN : 0) | (y < 0 ? PACKET.Y_SIGN : 0);
    return [PACKET.ALWAYS | signs | this.#buttons, x & 0xff, y & 0xff];
  }

  #setDefaults(): void {
    this.#queue.clearReports();
    this.#enabled = false;
    this.#scaling = false;
    this.#resolution = DEFAULT_RESOLUTION;
    this.#rate = DEFAULT_RATE;
  }
}
