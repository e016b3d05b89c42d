import { StateError } from "../errors.ts";
import type {
  DescriptorTableState,
  FpuState,
  PendingEventState,
  SegmentState,
  VcpuStateV1,
} from "../state.ts";
import { StateReader } from "../state-reader.ts";

export const SEGMENT_NAMES = ["es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"] as const;
const ACTIVITIES = ["active", "halted", "wait-for-sipi"] as const;
const EVENT_KINDS = ["interrupt", "nmi", "exception", "software-interrupt", "software-exception"] as const;
const CR0_PE = 1n;
const CR0_PG = 1n << 31n;
/** What XSAVE's components take at most: AMX's tiles have 8 KiB. */
const MAX_COMPONENT_BYTES = 65_536;

/**
 * Checks a saved vCPU state field by field and gives a copy of it.
 *
 * @throws StateError naming the first field that is wrong.
 */
export function parseVcpuState(state: unknown): VcpuStateV1 {
  const from = new VcpuStateParser(new StateReader(state, "vcpu", 1));
  return from.parse();
}

class VcpuStateParser {
  readonly #from: StateReader;

  constructor(from: StateReader) {
    this.#from = from;
  }

  parse(): VcpuStateV1 {
    const from = this.#from;
    const segments = Object.fromEntries(
      SEGMENT_NAMES.map((name) => [name, this.#segment(name)]),
    ) as unknown as Record<(typeof SEGMENT_NAMES)[number], SegmentState>;
    const cr0 = this.#field("cr0");
    if ((cr0 & CR0_PG) !== 0n && (cr0 & CR0_PE) === 0n) throw from.error("cr0", "PE where PG is set", cr0);
    const dr = from.record("dr");
    const debug = (name: string): bigint => this.#bits(`dr.${name}`, dr[name]);
    const activity = from.unknown("activity") as VcpuStateV1["activity"];
    if (!ACTIVITIES.includes(activity)) throw from.error("activity", ACTIVITIES.join(" or "), activity);
    const blocked = from.record("interruptibility");
    const flag = (name: string): boolean => {
      const value = blocked[name];
      if (typeof value !== "boolean") throw from.error(`interruptibility.${name}`, "a boolean", value);
      return value;
    };
    return {
      kind: "vcpu",
      version: 1,
      gpr: from.array("gpr", 16).map((value, i) => this.#bits(`gpr[${i}]`, value)),
      rip: this.#field("rip"),
      rflags: this.#bits("rflags", from.unknown("rflags"), 32n),
      ...segments,
      gdtr: this.#table("gdtr"),
      idtr: this.#table("idtr"),
      cr0,
      cr2: this.#field("cr2"),
      cr3: this.#field("cr3"),
      cr4: this.#field("cr4"),
      pdptrs: from
        .array("pdptrs", 4)
        .map((value, i) => this.#bits(`pdptrs[${i}]`, value)) as VcpuStateV1["pdptrs"],
      dr: {
        dr0: debug("dr0"),
        dr1: debug("dr1"),
        dr2: debug("dr2"),
        dr3: debug("dr3"),
        dr6: debug("dr6"),
        dr7: debug("dr7"),
      },
      msrs: this.#msrs(),
      fpu: this.#fpu(),
      activity,
      interruptibility: { sti: flag("sti"), movSs: flag("movSs"), nmiBlocked: flag("nmiBlocked") },
      pendingEvent: this.#event(),
      pendingNmi: from.boolean("pendingNmi"),
      tscOffset: this.#field("tscOffset"),
      instructions: this.#field("instructions"),
    };
  }

  #field(name: string): bigint {
    return this.#bits(name, this.#from.unknown(name));
  }

  #bits(field: string, value: unknown, bits = 64n): bigint {
    if (typeof value !== "bigint" || value < 0n || value >> bits !== 0n) {
      throw this.#from.error(field, `an unsigned ${bits}-bit bigint`, value);
    }
    return value;
  }

  #number(field: string, value: unknown, max: number): number {
    if (typeof value !== "number" || !Number.isInteger(value) || value < 0 || value > max) {
      throw this.#from.error(field, `an integer from 0 to ${max}`, value);
    }
    return value;
  }

  #segment(name: string): SegmentState {
    const { selector, base, limit, access } = this.#from.record(name);
    return {
      selector: this.#number(`${name}.selector`, selector, 0xffff),
      base: this.#bits(`${name}.base`, base),
      limit: this.#number(`${name}.limit`, limit, 0xffff_ffff),
      access: this.#number(`${name}.access`, access, 0x1_ffff),
    };
  }

  #table(name: string): DescriptorTableState {
    const { base, limit } = this.#from.record(name);
    return {
      base: this.#bits(`${name}.base`, base),
      limit: this.#number(`${name}.limit`, limit, 0xffff),
    };
  }

  #msrs(): Record<string, bigint> {
    const entries = Object.entries(this.#from.record("msrs"));
    return Object.fromEntries(
      entries.map(([key, value]) => {
        if (!/^[0-9a-f]{1,8}$/.test(key)) {
          throw this.#from.error(`msrs.${key}`, "an MSR's index in lower-case hex", key);
        }
        return [key, this.#bits(`msrs.${key}`, value)];
      }),
    );
  }

  #fpu(): FpuState {
    const from = this.#from;
    const fpu = from.record("fpu");
    const list = (name: string, length: number): unknown[] => {
      const value = fpu[name];
      if (Array.isArray(value) && value.length === length) return value;
      throw from.error(`fpu.${name}`, `an array of ${length}`, value);
    };
    const parsed: FpuState = {
      fcw: this.#number("fpu.fcw", fpu.fcw, 0xffff),
      fsw: this.#number("fpu.fsw", fpu.fsw, 0xffff),
      ftw: this.#number("fpu.ftw", fpu.ftw, 0xffff),
      fop: this.#number("fpu.fop", fpu.fop, 0xffff),
      fip: this.#bits("fpu.fip", fpu.fip),
      fdp: this.#bits("fpu.fdp", fpu.fdp),
      registers: list("registers", 8).map((register, i) => {
        const { significand, signExponent } = (register ?? {}) as Record<string, unknown>;
        return {
          significand: this.#bits(`fpu.registers[${i}].significand`, significand),
          signExponent: this.#number(`fpu.registers[${i}].signExponent`, signExponent, 0xffff),
        };
      }),
      mxcsr: this.#number("fpu.mxcsr", fpu.mxcsr, 0xffff_ffff),
      xmm: list("xmm", 16).map((value, i) => this.#bits(`fpu.xmm[${i}]`, value, 128n)),
      xcr0: this.#bits("fpu.xcr0", fpu.xcr0),
    };
    if (fpu.components === undefined) return parsed;
    if (typeof fpu.components !== "object" || fpu.components === null) {
      throw from.error("fpu.components", "an object", fpu.components);
    }
    const components = Object.entries(fpu.components).map(([number, bytes]) => {
      const isFit = bytes instanceof Uint8Array && bytes.length > 0 && bytes.length <= MAX_COMPONENT_BYTES;
      if (!/^\d{1,2}$/.test(number) || !isFit) {
        throw from.error(`fpu.components.${number}`, "an XSAVE component's bytes", bytes);
      }
      return [number, bytes.slice()];
    });
    return { ...parsed, components: Object.fromEntries(components) };
  }

  #event(): PendingEventState | undefined {
    const event = this.#from.unknown("pendingEvent");
    if (event === undefined || event === null) return undefined;
    const { kind, vector, errorCode } = event as Record<string, unknown>;
    if (!EVENT_KINDS.includes(kind as PendingEventState["kind"])) {
      throw this.#from.error("pendingEvent.kind", EVENT_KINDS.join(" or "), kind);
    }
    return {
      kind: kind as PendingEventState["kind"],
      vector: this.#number("pendingEvent.vector", vector, 255),
      errorCode:
        errorCode === undefined ? undefined : this.#number("pendingEvent.errorCode", errorCode, 0xffff_ffff),
    };
  }
}

/** The error for a state that this host's KVM does not take. */
export function refusedState(field: string, why: string): StateError {
  return new StateError("BAD_STATE", `vcpu.${field}: ${why}`);
}
