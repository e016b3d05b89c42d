/**
 * A VM's memory slots: which host memory lies at which guest-physical address (api.rst sec. 4.35), and the dirty
 * log of those that are RAM.
 */
import { MemoryFlag } from "./abi.ts";
import { KvmError } from "./errors.ts";
import type { Native } from "./native.ts";
import { Size, Struct } from "./structs.ts";

/** One slot as it is wanted. All numbers are multiples of 4096. */
export interface MemorySlot {
  /** Guest-physical address. */
  readonly gpa: number;
  readonly bytes: number;
  /** Address in this process. */
  readonly host: bigint;
  /** Guest writes exit instead of reaching the memory. */
  readonly readOnly: boolean;
  /** Who it is, for messages. */
  readonly name: string;
}

interface LiveSlot extends MemorySlot {
  readonly number: number;
  logsDirty: boolean;
}

const PAGE_BYTES = 4096;
/** KVM_MEM_MAX_NR_PAGES is 2^31 - 1 pages a slot. */
const MAX_SLOT_BYTES = (2 ** 31 - 1) * PAGE_BYTES;

export class MemorySlots {
  readonly #native: Native;
  readonly #vmFd: number;
  readonly #limit: number;
  readonly #slots = new Map<number, LiveSlot>();
  readonly #region = new Struct(Size.MEMORY_REGION);

  /** @param limit KVM_CAP_NR_MEMSLOTS. */
  constructor(native: Native, vmFd: number, limit: number) {
    this.#native = native;
    this.#vmFd = vmFd;
    this.#limit = limit;
  }

  /** Slots in order of address. */
  list(): readonly Readonly<LiveSlot>[] {
    return [...this.#slots.values()].sort((a, b) => a.gpa - b.gpa);
  }

  /** The slot that holds `gpa`, if any. */
  find(gpa: number): Readonly<LiveSlot> | undefined {
    for (const slot of this.#slots.values()) {
      if (gpa >= slot.gpa && gpa < slot.gpa + slot.bytes) return slot;
    }
    return undefined;
  }

  /**
   * Adds a slot; the guest sees it from its next access on.
   *
   * @throws KvmError with code `KVM_SLOT` where it is misaligned, overlaps another or is one too many; `KVM_CALL`
   *   where the kernel refuses it.
   */
  add(slot: MemorySlot): void {
    this.#check(slot);
    const number = this.#freeNumber(slot);
    const live: LiveSlot = { ...slot, number, logsDirty: false };
    this.#set(live, slot.bytes);
    this.#slots.set(number, live);
  }

  /** Takes the slot at `gpa` away. @throws KvmError where there is none, or the kernel refuses. */
  remove(gpa: number): void {
    const slot = this.find(gpa);
    if (slot?.gpa !== gpa) throw slotError(`no memory slot begins at ${hex(gpa)}`);
    this.#set(slot, 0);
    this.#slots.delete(slot.number);
  }

  /** Makes the slots what `wanted` says, touching only those that differ: first removals, then additions. */
  update(wanted: readonly MemorySlot[]): void {
    const kept = new Set<MemorySlot>();
    for (const slot of this.list()) {
      const same = wanted.find((other) => isSame(slot, other));
      if (same === undefined) this.remove(slot.gpa);
      else kept.add(same);
    }
    for (const slot of wanted) if (!kept.has(slot)) this.add(slot);
  }

  /** Turns dirty logging of the slot at `gpa` on or off. */
  setLogging(gpa: number, isOn: boolean): void {
    const slot = this.find(gpa) as LiveSlot | undefined;
    if (slot === undefined) throw slotError(`no memory slot holds ${hex(gpa)}`);
    if (slot.logsDirty === isOn) return;
    slot.logsDirty = isOn;
    this.#set(slot, slot.bytes);
  }

  /**
   * Pages of the slot at `gpa` that the guest wrote, a bit a page, and starts over with them: with manual protect
   * the bits are fetched first and the pages protected again by a call of their own.
   */
  takeDirty(gpa: number, isManual: boolean): Uint8Array {
    const slot = this.find(gpa);
    if (slot === undefined) throw slotError(`no memory slot holds ${hex(gpa)}`);
    const pages = slot.bytes / PAGE_BYTES;
    const bitmap = new Uint8Array(new ArrayBuffer(Math.ceil(pages / 64) * 8));
    const log = new Struct(Size.DIRTY_LOG);
    log.setU32(0, slot.number);
    log.setU64(8, this.#native.address(bitmap));
    this.#native.ioctlStruct(this.#vmFd, "KVM_GET_DIRTY_LOG", log);
    if (isManual && bitmap.some((byte) => byte !== 0)) {
      const clear = new Struct(Size.CLEAR_DIRTY_LOG);
      clear.setU32(0, slot.number);
      clear.setU32(4, pages);
      clear.setU64(16, this.#native.address(bitmap));
      this.#native.ioctlStruct(this.#vmFd, "KVM_CLEAR_DIRTY_LOG", clear);
    }
    return bitmap;
  }

  #set(slot: LiveSlot, bytes: number): void {
    const region = this.#region;
    const readOnly = slot.readOnly ? MemoryFlag.READONLY : 0;
    region.setU32(0, slot.number);
    region.setU32(4, readOnly | (slot.logsDirty ? MemoryFlag.LOG_DIRTY_PAGES : 0));
    region.setU64(8, BigInt(slot.gpa));
    region.setU64(16, BigInt(bytes));
    region.setU64(24, slot.host);
    this.#native.ioctlStruct(this.#vmFd, "KVM_SET_USER_MEMORY_REGION", region);
  }

  #freeNumber(slot: MemorySlot): number {
    for (let number = 0; number < this.#limit; number++) if (!this.#slots.has(number)) return number;
    throw slotError(`${describe(slot)} is one slot too many: this kernel has ${this.#limit}`);
  }

  #check(slot: MemorySlot): void {
    const { gpa, bytes, host } = slot;
    const isAligned = gpa % PAGE_BYTES === 0 && bytes % PAGE_BYTES === 0 && host % 4096n === 0n;
    if (!Number.isSafeInteger(gpa) || gpa < 0 || bytes <= 0 || bytes > MAX_SLOT_BYTES || !isAligned) {
      throw slotError(`${describe(slot)}: expected whole pages at addresses that are multiples of 0x1000`);
    }
    for (const other of this.#slots.values()) {
      if (gpa < other.gpa + other.bytes && other.gpa < gpa + bytes) {
        throw slotError(`${describe(slot)} overlaps ${describe(other)}; remove one, or move it`);
      }
    }
  }
}

function isSame(a: MemorySlot, b: MemorySlot): boolean {
  return a.gpa === b.gpa && a.bytes === b.bytes && a.host === b.host && a.readOnly === b.readOnly;
}

function slotError(what: string): KvmError {
  return new KvmError("KVM_SLOT", "KVM_SET_USER_MEMORY_REGION", 0, `KVM_SET_USER_MEMORY_REGION: ${what}`);
}

function describe({ name, gpa, bytes, host }: MemorySlot): string {
  return `slot "${name}" at ${hex(gpa)}..${hex(gpa + bytes)} (host address 0x${host.toString(16)})`;
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}
