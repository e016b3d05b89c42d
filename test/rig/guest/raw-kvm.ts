/**
 * The least of the KVM API that runs one vCPU, by system calls alone: what the smoke script proves the rig with, apart
 * from the engine that the rig is there to test. Names and numbers are linux/kvm.h's, for x86-64.
 */
import { MAP, Native, PROT } from "../../host-cpu/native.ts";

const O_RDWR = 2;
const O_CLOEXEC = 0x80000;

export const KVM = {
  GET_API_VERSION: 0xae00,
  CREATE_VM: 0xae01,
  GET_VCPU_MMAP_SIZE: 0xae04,
  CREATE_VCPU: 0xae41,
  SET_TSS_ADDR: 0xae47,
  RUN: 0xae80,
  SET_USER_MEMORY_REGION: 0x4020_ae46,
  GET_REGS: 0x8090_ae81,
  SET_REGS: 0x4090_ae82,
  GET_SREGS: 0x8138_ae83,
  SET_SREGS: 0x4138_ae84,
} as const;

/** Reasons why KVM_RUN came back, in `exit_reason` of the vCPU's page. */
export const KVM_EXIT = { IO: 2, HLT: 5, SHUTDOWN: 8, FAIL_ENTRY: 9, INTERNAL_ERROR: 17 } as const;
const EXIT_REASON = 8;

/** Order of the 64-bit words in `struct kvm_regs`. */
export const REGS = [
  ...["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"],
  ...["r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags"],
] as const;
const REGS_BYTES = 8 * REGS.length;

/** Places in `struct kvm_sregs`: eight segments of 24 bytes, the tables, then control registers. */
const SREGS_BYTES = 0x138;
const SEGMENT_BYTES = 24;
const SREGS = {
  CS: 0,
  DS: 1,
  ES: 2,
  FS: 3,
  GS: 4,
  SS: 5,
  CR0: 0xe0,
  CR3: 0xf0,
  CR4: 0xf8,
  EFER: 0x108,
} as const;

/** Three pages that KVM takes for real mode on Intel processors without unrestricted guests. */
const TSS_ADDRESS = 0xfffb_d000;
const PAGE_BYTES = 4096;

/** /dev/kvm, a VM and one vCPU with RAM from 0; close() gives all of it back. */
export class RawKvm {
  readonly #native: Native;
  readonly #open: bigint[] = [];
  readonly #mapped: [address: bigint, bytes: number][] = [];
  readonly #kvm: bigint;
  #vcpu = 0n;
  #run: Uint8Array = new Uint8Array(0);
  ram: Uint8Array = new Uint8Array(0);

  /** @throws {NativeError} where there is no /dev/kvm that may be opened. */
  constructor() {
    const native = Native.open();
    if (typeof native === "string") throw new Error(native);
    this.#native = native;
    const path = new TextEncoder().encode("/dev/kvm\0");
    this.#kvm = this.#keep(native.call("open", native.address(path), O_RDWR | O_CLOEXEC));
  }

  get apiVersion(): number {
    return Number(this.#ioctl(this.#kvm, "GET_API_VERSION", 0));
  }

  /** Makes the VM and its vCPU. */
  create(ramBytes: number): void {
    const vm = this.#keep(this.#ioctl(this.#kvm, "CREATE_VM", 0));
    this.#ioctl(vm, "SET_TSS_ADDR", TSS_ADDRESS);
    const address = this.#map(ramBytes, MAP.PRIVATE | MAP.ANONYMOUS, -1);
    this.ram = this.#native.view(address, ramBytes);
    // slot and flags, guest-physical address, bytes, user-space address
    const region = new BigUint64Array([0n, 0n, BigInt(ramBytes), address]);
    this.#ioctl(vm, "SET_USER_MEMORY_REGION", this.#native.address(new Uint8Array(region.buffer)));
    this.#vcpu = this.#keep(this.#ioctl(vm, "CREATE_VCPU", 0));
    const runBytes = Number(this.#ioctl(this.#kvm, "GET_VCPU_MMAP_SIZE", 0));
    this.#run = this.#native.view(this.#map(runBytes, MAP.SHARED, Number(this.#vcpu)), runBytes);
  }

  /** Enters the guest; gives the exit's reason. */
  run(): number {
    this.#ioctl(this.#vcpu, "RUN", 0);
    return new DataView(this.#run.buffer, this.#run.byteOffset).getUint32(EXIT_REASON, true);
  }

  get registers(): Record<(typeof REGS)[number], bigint> {
    const bytes = this.#get("GET_REGS", REGS_BYTES);
    return Object.fromEntries(REGS.map((name, i) => [name, bytes.getBigUint64(8 * i, true)])) as never;
  }

  /** Those that are not named become 0; RFLAGS gets its fixed bit. */
  setRegisters(values: Partial<Record<(typeof REGS)[number], bigint>>): void {
    const bytes = new DataView(new ArrayBuffer(REGS_BYTES));
    REGS.forEach((name, i) => {
      bytes.setBigUint64(8 * i, values[name] ?? (name === "rflags" ? 2n : 0n), true);
    });
    this.#set("SET_REGS", bytes);
  }

  /** Real mode's segments, all with base 0. */
  enterRealMode(): void {
    const bytes = this.#get("GET_SREGS", SREGS_BYTES);
    bytes.setBigUint64(SREGS.CS * SEGMENT_BYTES, 0n, true);
    bytes.setUint16(SREGS.CS * SEGMENT_BYTES + 12, 0, true);
    this.#set("SET_SREGS", bytes);
  }

  /** 64-bit mode with flat segments and the page tables at `cr3`. */
  enterLongMode(cr3: bigint): void {
    const bytes = this.#get("GET_SREGS", SREGS_BYTES);
    const { CS, DS, ES, FS, GS, SS } = SREGS;
    for (const segment of [DS, ES, FS, GS, SS]) setSegment(bytes, segment, 0x10, 3, "data");
    setSegment(bytes, CS, 0x08, 11, "code");
    bytes.setBigUint64(SREGS.CR3, cr3, true);
    bytes.setBigUint64(SREGS.CR4, 0x20n, true); // PAE
    bytes.setBigUint64(SREGS.CR0, 0x8000_0011n, true); // PG, ET, PE
    bytes.setBigUint64(SREGS.EFER, 0x500n, true); // LMA, LME
    this.#set("SET_SREGS", bytes);
  }

  close(): void {
    for (const [address, bytes] of this.#mapped) this.#native.call("munmap", address, bytes);
    for (const descriptor of this.#open.reverse()) this.#native.call("close", descriptor);
  }

  #keep(descriptor: bigint): bigint {
    this.#open.push(descriptor);
    return descriptor;
  }

  #map(bytes: number, flags: number, descriptor: number): bigint {
    const size = Math.ceil(bytes / PAGE_BYTES) * PAGE_BYTES;
    const address = this.#native.call("mmap", 0, size, PROT.READ | PROT.WRITE, flags, descriptor, 0);
    this.#mapped.push([address, size]);
    return address;
  }

  #get(name: keyof typeof KVM, size: number): DataView {
    const bytes = new Uint8Array(size);
    this.#ioctl(this.#vcpu, name, this.#native.address(bytes));
    return new DataView(bytes.buffer);
  }

  #set(name: keyof typeof KVM, bytes: DataView): void {
    this.#ioctl(this.#vcpu, name, this.#native.address(new Uint8Array(bytes.buffer)));
  }

  #ioctl(descriptor: bigint, name: keyof typeof KVM, argument: number | bigint): bigint {
    try {
      return this.#native.call("ioctl", descriptor, KVM[name], argument);
    } catch (cause) {
      throw new Error(`KVM_${name}: ${cause instanceof Error ? cause.message : cause}`, { cause });
    }
  }
}

/** Fills a `struct kvm_segment`: base, limit, selector; type, present, dpl, db, s, l, g, avl, unusable. */
function setSegment(
  bytes: DataView,
  index: number,
  selector: number,
  type: number,
  kind: "code" | "data",
): void {
  const at = index * SEGMENT_BYTES;
  bytes.setBigUint64(at, 0n, true);
  bytes.setUint32(at + 8, 0xffff_ffff, true);
  bytes.setUint16(at + 12, selector, true);
  const isCode = kind === "code";
  const flags = [type, 1, 0, isCode ? 0 : 1, 1, isCode ? 1 : 0, 1, 0, 0];
  flags.forEach((value, i) => {
    bytes.setUint8(at + 14 + i, value);
  });
}
