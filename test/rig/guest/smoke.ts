/** Proves the rig, without any of the packages: KVM is there and runs a guest in real mode and in 64-bit mode. */
import type { RigCase } from "./case.ts";
import { KVM_EXIT, RawKvm } from "./raw-kvm.ts";

const RAM_BYTES = 0x1_0000;
const CODE = 0x1000;
const PML4 = 0x2000;
const PDPT = 0x3000;
const PAGE_DIRECTORY = 0x4000;

/** `mov ax, 0x1234; mov bx, 3; mul bx; hlt`, with 16-bit operands. */
const REAL_CODE = [0xb8, 0x34, 0x12, 0xbb, 0x03, 0x00, 0xf7, 0xe3, 0xf4];
/** `mov rax, 0x1122334455667788; mov [0x5000], rax; lea r15, [rax + rcx]; hlt`. */
const LONG_CODE = [
  ...[0x48, 0xb8, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11],
  ...[0x48, 0x89, 0x04, 0x25, 0x00, 0x50, 0x00, 0x00],
  ...[0x4c, 0x8d, 0x3c, 0x08, 0xf4],
];

function withKvm(action: (kvm: RawKvm) => void): void {
  const kvm = new RawKvm();
  try {
    action(kvm);
  } finally {
    kvm.close();
  }
}

function expectEqual(what: string, actual: unknown, expected: unknown): void {
  if (actual === expected) return;
  const show = (value: unknown): string =>
    typeof value === "bigint" ? `0x${value.toString(16)}` : String(value);
  throw new Error(`${what}: expected ${show(expected)}, got ${show(actual)}`);
}

export const cases: readonly RigCase[] = [
  {
    name: "/dev/kvm speaks version 12 of its API",
    run: () => withKvm((kvm) => expectEqual("KVM_GET_API_VERSION", kvm.apiVersion, 12)),
  },
  {
    name: "a vCPU runs real mode to HLT",
    run: () =>
      withKvm((kvm) => {
        kvm.create(RAM_BYTES);
        kvm.ram.set(REAL_CODE, CODE);
        kvm.enterRealMode();
        kvm.setRegisters({ rip: BigInt(CODE) });
        expectEqual("exit", kvm.run(), KVM_EXIT.HLT);
        const { rax, rdx, rip } = kvm.registers;
        expectEqual("AX", rax, 0x369cn);
        expectEqual("DX", rdx, 0n);
        expectEqual("IP", rip, BigInt(CODE + REAL_CODE.length));
      }),
  },
  {
    name: "a vCPU runs 64-bit mode to HLT",
    run: () =>
      withKvm((kvm) => {
        kvm.create(RAM_BYTES);
        kvm.ram.set(LONG_CODE, CODE);
        // One page of 2 MiB, present and writable, identity-mapped.
        const tables = new DataView(kvm.ram.buffer, kvm.ram.byteOffset);
        tables.setBigUint64(PML4, BigInt(PDPT | 3), true);
        tables.setBigUint64(PDPT, BigInt(PAGE_DIRECTORY | 3), true);
        tables.setBigUint64(PAGE_DIRECTORY, 0x83n, true);
        kvm.enterLongMode(BigInt(PML4));
        kvm.setRegisters({ rip: BigInt(CODE), rcx: 0x1000n });
        expectEqual("exit", kvm.run(), KVM_EXIT.HLT);
        const { rax, r15, rip } = kvm.registers;
        expectEqual("RAX", rax, 0x1122_3344_5566_7788n);
        expectEqual("R15", r15, 0x1122_3344_5566_8788n);
        expectEqual("RIP", rip, BigInt(CODE + LONG_CODE.length));
        expectEqual("memory", tables.getBigUint64(0x5000, true), 0x1122_3344_5566_7788n);
      }),
  },
];
