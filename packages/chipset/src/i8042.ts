/**
 * Intel 8042 keyboard controller of the PS/2 (IBM PS/2 Hardware Interface Technical Reference, "Keyboard and
 * Auxiliary Device Controller"): two device ports, set 2 to set 1 translation, A20 and the reset pulse.
 *
 * It answers at once: IBF is never seen set. The byte that waits for the guest is in the output buffer, its
 * interrupt line high until it is read; what follows comes after that, each with an edge of its own.
 *
 * A port with nothing on it answers as a controller whose device does not: 0xFE with the time-out bit.
 * Missing: the password commands (0xA4 says that there is none) and active multiplexing; other commands that the
 * controller does not know are ignored.
 */
import type { AccessSize, BusDevice } from "@skep/memory";
import { type IrqLine, StateReader } from "@skep/vcpu";
import type { A20Gate } from "./a20.ts";
import { type ByteRegisters, readBytes, writeBytes } from "./access.ts";
import type { Ps2Device } from "./ps2-device.ts";
import type { ResetKind } from "./reset-control.ts";
import { SET2_TO_SET1 } from "./scan-codes.ts";

/** Status register, port 0x64, RO. Port 0x64 takes commands, port 0x60 data both ways. */
export const KBC_STATUS = {
  OBF: 0x01,
  IBF: 0x02,
  /** As the configuration's SYS. */
  SYS: 0x04,
  /** The last write was a command. */
  A2: 0x08,
  /** 1: the keyboard lock is open. */
  UNLOCKED: 0x10,
  /** The output buffer holds a byte from the second port. */
  AUX: 0x20,
  TIMEOUT: 0x40,
} as const;

/** Configuration: byte 0 of the controller's memory. */
export const KBC_CONFIG = {
  KBD_INT: 0x01,
  AUX_INT: 0x02,
  SYS: 0x04,
  KBD_DISABLE: 0x10,
  AUX_DISABLE: 0x20,
  XLATE: 0x40,
} as const;

export const KBC_COMMAND = {
  /** 0x20 to 0x3F: read a byte of memory. */
  READ_MEMORY: 0x20,
  /** 0x60 to 0x7F: write a byte of memory; one parameter. */
  WRITE_MEMORY: 0x60,
  TEST_PASSWORD: 0xa4,
  DISABLE_AUX: 0xa7,
  ENABLE_AUX: 0xa8,
  TEST_AUX: 0xa9,
  SELF_TEST: 0xaa,
  TEST_KBD: 0xab,
  DISABLE_KBD: 0xad,
  ENABLE_KBD: 0xae,
  READ_INPUT_PORT: 0xc0,
  READ_OUTPUT_PORT: 0xd0,
  /** These four take one parameter. */
  WRITE_OUTPUT_PORT: 0xd1,
  WRITE_KBD_BUFFER: 0xd2,
  WRITE_AUX_BUFFER: 0xd3,
  WRITE_AUX: 0xd4,
  DISABLE_A20: 0xdd,
  ENABLE_A20: 0xdf,
  /** 0xF0 to 0xFF: pulses low those of output port bits 3:0 that are 0. */
  PULSE: 0xf0,
} as const;

/** Output port. */
const OUTPUT = { NOT_RESET: 0x01, A20: 0x02, KBD_OBF: 0x10, AUX_OBF: 0x20, LINES: 0xc0 } as const;
/** Input port: keyboard not locked, as every clone gives it. */
const INPUT_PORT = 0x80;
const SELF_TEST_OK = 0x55;
const NO_PASSWORD = 0xf1;
const NO_DEVICE = 0xfe;
const MEMORY_BYTES = 32;
const BREAK_PREFIX = 0xf0;
/** What PC firmware leaves: translation on, keyboard interrupt on, second port off. */
const RESET_CONFIG = KBC_CONFIG.KBD_INT | KBC_CONFIG.SYS | KBC_CONFIG.AUX_DISABLE | KBC_CONFIG.XLATE;

/** Where the byte in the output buffer came from; the controller's own answers raise no interrupt. */
type Source = "controller" | "kbd" | "aux";

interface OutputByte {
  value: number;
  source: Source;
  timeout: boolean;
}

export interface I8042Lines {
  /** Interrupt line 1. */
  readonly keyboard: IrqLine;
  /** Interrupt line 12. */
  readonly mouse: IrqLine;
}

export interface I8042Options {
  /** What is plugged into the first port; default nothing. */
  readonly keyboard?: Ps2Device;
  /** What is plugged into the second port; default nothing. */
  readonly mouse?: Ps2Device;
  /** Called inside the guest's write: should note the request and return. */
  readonly onReset?: (kind: ResetKind) => void;
}

export interface I8042ByteStateV1 {
  value: number;
  /** 0: the controller; 1: the first port; 2: the second. */
  source: number;
  timeout: boolean;
}

export interface I8042StateV1 {
  kind: "i8042";
  version: 1;
  memory: number[];
  /** Command whose parameter is awaited, or 0. */
  command: number;
  /** Last write was a command. */
  a2: boolean;
  /** The output buffer, where it is full. */
  output?: I8042ByteStateV1;
  /** An answer of the controller that waits for the output buffer. */
  pending?: I8042ByteStateV1;
  /** A break prefix has been swallowed by the translation. */
  breakSeen: boolean;
}

const SOURCES = ["controller", "kbd", "aux"] as const satisfies readonly Source[];

/** The chip; claim `data` at `Port.I8042_DATA` and `command` at `Port.I8042_COMMAND`. */
export class I8042 {
  /** Port 0x60. */
  readonly data: BusDevice;
  /** Port 0x64. */
  readonly command: BusDevice;

  readonly #lines: I8042Lines;
  readonly #a20: A20Gate;
  readonly #options: I8042Options;
  readonly #memory = new Uint8Array(MEMORY_BYTES);
  #command = 0;
  #a2 = false;
  #output: OutputByte | undefined;
  #pending: OutputByte | undefined;
  #breakSeen = false;

  constructor(lines: I8042Lines, a20: A20Gate, options: I8042Options = {}) {
    this.#lines = lines;
    this.#a20 = a20;
    this.#options = options;
    this.data = byteDevice({
      readByte: (offset) => (offset === 0 ? this.#readData() : 0xff),
      writeByte: (offset, value) => (offset === 0 ? this.#writeData(value) : undefined),
    });
    this.command = byteDevice({
      readByte: (offset) => (offset === 0 ? this.#status() : 0xff),
      writeByte: (offset, value) => (offset === 0 ? this.#writeCommand(value) : undefined),
    });
    for (const device of [options.keyboard, options.mouse]) {
      if (device !== undefined) device.onData = () => this.#fill();
    }
    this.#memory[0] = RESET_CONFIG;
  }

  /** The controller and both devices as after power-on and firmware. */
  reset(): void {
    this.#memory.fill(0);
    this.#memory[0] = RESET_CONFIG;
    this.#command = 0;
    this.#a2 = false;
    this.#output = undefined;
    this.#pending = undefined;
    this.#breakSeen = false;
    this.#options.keyboard?.reset();
    this.#options.mouse?.reset();
    this.#update();
  }

  /** The controller alone: the devices on its ports have their own state. */
  save(): I8042StateV1 {
    const plain = (byte: OutputByte): I8042ByteStateV1 => ({ ...byte, source: SOURCES.indexOf(byte.source) });
    return {
      kind: "i8042",
      version: 1,
      memory: [...this.#memory],
      command: this.#command,
      a2: this.#a2,
      ...(this.#output === undefined ? {} : { output: plain(this.#output) }),
      ...(this.#pending === undefined ? {} : { pending: plain(this.#pending) }),
      breakSeen: this.#breakSeen,
    };
  }

  /** @throws StateError where `state` is not a saved state of this chip; nothing is changed then. */
  restore(state: unknown): void {
    const fields = new StateReader(state, "i8042", 1);
    const memory = fields.uints("memory", MEMORY_BYTES, 0xff);
    const command = fields.bits("command", 0xff);
    const a2 = fields.boolean("a2");
    const bytes = (name: string): OutputByte | undefined => {
      if (!fields.has(name)) return undefined;
      const byte = new StateReader(fields.unknown(name), `i8042.${name}`);
      const source = SOURCES[byte.integer("source", 0, SOURCES.length - 1)]!;
      return { value: byte.bits("value", 0xff), source, timeout: byte.boolean("timeout") };
    };
    const output = bytes("output");
    const pending = bytes("pending");
    const breakSeen = fields.boolean("breakSeen");
    this.#memory.set(memory);
    this.#command = command;
    this.#a2 = a2;
    this.#output = output;
    this.#pending = pending;
    this.#breakSeen = breakSeen;
    this.#update();
  }

  #config(): number {
    return this.#memory[0]!;
  }

  #setConfig(bits: number, on: boolean): void {
    this.#memory[0] = on ? this.#config() | bits : this.#config() & ~bits;
    this.#fill();
  }

  #status(): number {
    let status: number = KBC_STATUS.UNLOCKED;
    if ((this.#config() & KBC_CONFIG.SYS) !== 0) status |= KBC_STATUS.SYS;
    if (this.#a2) status |= KBC_STATUS.A2;
    if (this.#output !== undefined) {
      status |= KBC_STATUS.OBF;
      if (this.#output.source === "aux") status |= KBC_STATUS.AUX;
      if (this.#output.timeout) status |= KBC_STATUS.TIMEOUT;
    }
    return status;
  }

  #readData(): number {
    const value = this.#output?.value ?? 0;
    this.#output = undefined;
    // The lines fall between two bytes, so that the next one is an edge again.
    this.#update();
    this.#fill();
    return value;
  }

  #writeData(value: number): void {
    const command = this.#command;
    this.#command = 0;
    this.#a2 = false;
    if (command === 0) {
      // Sending to the keyboard switches its port on.
      this.#setConfig(KBC_CONFIG.KBD_DISABLE, false);
      this.#send(this.#options.keyboard, value, "kbd");
    } else if (command >= KBC_COMMAND.WRITE_MEMORY && command < KBC_COMMAND.WRITE_MEMORY + MEMORY_BYTES) {
      this.#memory[command - KBC_COMMAND.WRITE_MEMORY] = value;
      this.#fill();
    } else if (command === KBC_COMMAND.WRITE_OUTPUT_PORT) {
      this.#a20.set((value & OUTPUT.A20) !== 0);
      if ((value & OUTPUT.NOT_RESET) === 0) this.#options.onReset?.("processor");
    } else if (command === KBC_COMMAND.WRITE_KBD_BUFFER) {
      this.#answer(value, "kbd");
    } else if (command === KBC_COMMAND.WRITE_AUX_BUFFER) {
      this.#answer(value, "aux");
    } else if (command === KBC_COMMAND.WRITE_AUX) {
      this.#send(this.#options.mouse, value, "aux");
    }
  }

  #writeCommand(value: number): void {
    this.#a2 = true;
    this.#command = 0;
    if (value >= KBC_COMMAND.PULSE) {
      // 0xFE is the reset that Linux's keyboard method asks for.
      if ((value & OUTPUT.NOT_RESET) === 0) this.#options.onReset?.("processor");
      return;
    }
    if (value >= KBC_COMMAND.READ_MEMORY && value < KBC_COMMAND.READ_MEMORY + MEMORY_BYTES) {
      this.#answer(this.#memory[value - KBC_COMMAND.READ_MEMORY]!, "controller");
      return;
    }
    if (value >= KBC_COMMAND.WRITE_MEMORY && value < KBC_COMMAND.WRITE_MEMORY + MEMORY_BYTES) {
      this.#command = value;
      return;
    }
    switch (value) {
      case KBC_COMMAND.TEST_PASSWORD:
        this.#answer(NO_PASSWORD, "controller");
        break;
      case KBC_COMMAND.DISABLE_AUX:
      case KBC_COMMAND.ENABLE_AUX:
        this.#setConfig(KBC_CONFIG.AUX_DISABLE, value === KBC_COMMAND.DISABLE_AUX);
        break;
      case KBC_COMMAND.DISABLE_KBD:
      case KBC_COMMAND.ENABLE_KBD:
        this.#setConfig(KBC_CONFIG.KBD_DISABLE, value === KBC_COMMAND.DISABLE_KBD);
        break;
      case KBC_COMMAND.SELF_TEST:
        this.#setConfig(KBC_CONFIG.SYS, true);
        this.#answer(SELF_TEST_OK, "controller");
        break;
      case KBC_COMMAND.TEST_KBD:
      case KBC_COMMAND.TEST_AUX:
        this.#answer(0, "controller");
        break;
      case KBC_COMMAND.READ_INPUT_PORT:
        this.#answer(INPUT_PORT, "controller");
        break;
      case KBC_COMMAND.READ_OUTPUT_PORT:
        this.#answer(this.#outputPort(), "controller");
        break;
      case KBC_COMMAND.WRITE_OUTPUT_PORT:
      case KBC_COMMAND.WRITE_KBD_BUFFER:
      case KBC_COMMAND.WRITE_AUX_BUFFER:
      case KBC_COMMAND.WRITE_AUX:
        this.#command = value;
        break;
      case KBC_COMMAND.DISABLE_A20:
      case KBC_COMMAND.ENABLE_A20:
        this.#a20.set(value === KBC_COMMAND.ENABLE_A20);
        break;
      default:
        break;
    }
  }

  #outputPort(): number {
    return (
      OUTPUT.LINES |
      OUTPUT.NOT_RESET |
      (this.#a20.enabled ? OUTPUT.A20 : 0) |
      (this.#output?.source === "kbd" ? OUTPUT.KBD_OBF : 0) |
      (this.#output?.source === "aux" ? OUTPUT.AUX_OBF : 0)
    );
  }

  #send(device: Ps2Device | undefined, value: number, source: "kbd" | "aux"): void {
    if (device === undefined) this.#answer(NO_DEVICE, source, true);
    else device.receive(value);
  }

  /** Puts a byte before whatever the devices have; it waits where the guest has not read the last one. */
  #answer(value: number, source: Source, timeout = false): void {
    this.#pending = { value, source, timeout };
    this.#fill();
  }

  /** Fills an empty output buffer: the controller's answer, then the keyboard's bytes, then the mouse's. */
  #fill(): void {
    if (this.#output === undefined) {
      this.#output = this.#pending ?? this.#fromKeyboard() ?? this.#fromMouse();
      if (this.#output === this.#pending) this.#pending = undefined;
    }
    this.#update();
  }

  #fromKeyboard(): OutputByte | undefined {
    if ((this.#config() & KBC_CONFIG.KBD_DISABLE) !== 0) return undefined;
    const translates = (this.#config() & KBC_CONFIG.XLATE) !== 0;
    // A break prefix becomes the top bit of the byte that follows it.
    for (;;) {
      const byte = this.#options.keyboard?.next();
      if (byte === undefined) return undefined;
      if (!translates) return { value: byte, source: "kbd", timeout: false };
      if (byte === BREAK_PREFIX) {
        this.#breakSeen = true;
        continue;
      }
      const value = SET2_TO_SET1[byte]! | (this.#breakSeen ? 0x80 : 0);
      this.#breakSeen = false;
      return { value, source: "kbd", timeout: false };
    }
  }

  #fromMouse(): OutputByte | undefined {
    if ((this.#config() & KBC_CONFIG.AUX_DISABLE) !== 0) return undefined;
    const value = this.#options.mouse?.next();
    return value === undefined ? undefined : { value, source: "aux", timeout: false };
  }

  #update(): void {
    const config = this.#config();
    const source = this.#output?.source;
    this.#lines.keyboard.set(source === "kbd" && (config & KBC_CONFIG.KBD_INT) !== 0);
    this.#lines.mouse.set(source === "aux" && (config & KBC_CONFIG.AUX_INT) !== 0);
  }
}

function byteDevice(registers: ByteRegisters): BusDevice {
  return {
    read: (offset: number, size: AccessSize) => readBytes(registers, offset, size),
    write: (offset: number, size: AccessSize, value: number) => writeBytes(registers, offset, size, value),
  };
}
