/** Code that changes, moves or lies across pages: what was decoded from it must never outlive it. */
import { ExitReason } from "@skep/vcpu";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { CODE, Guest, TIERS } from "./guest.ts";

const HLT = 0xf4;
const RET = 0xc3;
const NOP = 0x90;
const RAX = 0;
const RCX = 1;

const u32 = (value: number): number[] => [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff);
/** mov eax, value */
const movEax = (value: number): number[] => [0xb8, ...u32(value)];
/** mov rbx, value */
const movRbx = (value: number): number[] => [0x48, 0xc7, 0xc3, ...u32(value)];
const CALL_RBX = [0xff, 0xd3];
const MOV_ECX_EAX = [0x89, 0xc1];
/** mov qword [address], value */
const store64 = (address: number, value: number): number[] => [
  ...[0x48, 0xc7, 0x04, 0x25],
  ...u32(address),
  ...u32(value),
];
/** invlpg [address] */
const invlpg = (address: number): number[] => [0x0f, 0x01, 0x3c, 0x25, ...u32(address)];

/** The guest's page directory (guest.ts), and room for a page table of the second 2 MiB. */
const DIRECTORY = 0x10_2000;
const TABLE = 0x10_3000;
/** Three linear pages in a row, and the physical pages that they are put on. */
const LINEAR = 0x20_0000;
const FIRST = 0x30_0000;
const SECOND = 0x31_0000;
const OTHER = 0x32_0000;

let guest: Guest;

/** Runs from `rip` to HLT; gives EAX. */
function run(rip = CODE, on = guest): bigint {
  on.set((state) => {
    state.rip = BigInt(rip);
    state.gpr[RAX] = 0n;
  });
  expect(on.run({ budget: 1_000_000 }).reason).toBe(ExitReason.Hlt);
  return on.vcpu.save().gpr[RAX]!;
}

/** Maps the linear pages from LINEAR on to physical pages, 4 KiB each. */
function mapPages(...physical: number[]): void {
  guest.memory.dma.writeU64(DIRECTORY + 8, BigInt(TABLE) | 7n);
  physical.forEach((page, i) => {
    guest.memory.dma.writeU64(TABLE + 8 * i, BigInt(page) | 7n);
  });
  guest.set(() => {});
}

describe.each(TIERS)("%s", (_tier, compileAfter) => {
  beforeEach(async () => {
    guest = await Guest.open({ compileAfter });
  });
  afterEach(() => guest.close());

  describe("code that the guest changes", () => {
    it("the very next instruction, each time anew", () => {
      // mov byte [rip + 1], 42; mov eax, 1; hlt
      guest.code(CODE, 0xc6, 0x05, 1, 0, 0, 0, 42, ...movEax(1), HLT);
      expect(run()).toBe(42n);
      guest.code(CODE + 6, 43);
      expect(run()).toBe(43n);
    });

    it("an instruction of the same block, by a REP string store", () => {
      // lea rdi, [rip + 8]; mov al, 2; mov ecx, 4 … rep stosb onto an immediate; mov ebx, 1; mov eax, ebx; hlt
      const head = [0xb0, 2, 0xb9, 4, 0, 0, 0, 0x48, 0x8d, 0x3d, 3, 0, 0, 0, 0xf3, 0xaa];
      guest.code(CODE, ...head, 0xbb, 1, 0, 0, 0, 0x89, 0xd8, HLT);
      expect(run()).toBe(0x0202_0202n);
    });

    it("a function that was called before, through a linked call", () => {
      const target = 0x8800;
      guest.code(target, ...movEax(1), RET);
      const call = (at: number): number[] => [0xe8, ...u32(target - at - 5)];
      // call; mov ecx, eax; mov byte [target + 1], 2; call; hlt
      guest.code(CODE, ...call(CODE), ...MOV_ECX_EAX, ...[0xc6, 0x04, 0x25], ...u32(target + 1), 2);
      guest.code(CODE + 15, ...call(CODE + 15), HLT);
      expect(run()).toBe(2n);
      expect(guest.vcpu.save().gpr[RCX]).toBe(1n);
    });

    it("a loop that overwrites its own body on the way round", () => {
      // mov ecx, 10; a: add eax, 1; inc byte [a + 2]; dec ecx; jnz a; hlt
      const a = CODE + 5;
      guest.code(CODE, 0xb9, 10, 0, 0, 0, 0x83, 0xc0, 1, 0xfe, 0x04, 0x25, ...u32(a + 2));
      guest.code(a + 10, 0xff, 0xc9, 0x75, 0xf2, HLT);
      expect(run()).toBe(55n);
    });

    it("through another linear address of the same page", () => {
      mapPages(FIRST, FIRST);
      guest.code(FIRST, ...movEax(1), RET);
      const alias = LINEAR + 0x1000;
      guest.code(CODE, ...movRbx(LINEAR), ...CALL_RBX, ...MOV_ECX_EAX);
      guest.code(CODE + 11, ...[0xc6, 0x04, 0x25], ...u32(alias + 1), 9, ...CALL_RBX, HLT);
      expect(run()).toBe(9n);
      expect(guest.vcpu.save().gpr[RCX]).toBe(1n);
    });

    it("data beside code stays data", () => {
      // inc dword [rip + 1]; hlt; the counter
      guest.code(CODE, 0xff, 0x05, 1, 0, 0, 0, HLT, 0, 0, 0, 0);
      for (let i = 0; i < 3; i++) run();
      expect(guest.memory.dma.readU32(CODE + 7)).toBe(3);
    });

    it("code that a device writes", () => {
      guest.code(CODE, ...movEax(1), HLT);
      expect(run()).toBe(1n);
      guest.memory.dma.write(CODE + 1, Uint8Array.of(2));
      expect(run()).toBe(2n);
      guest.memory.dma.writeU32(CODE + 1, 3);
      expect(run()).toBe(3n);
      guest.memory.dma.fill(CODE, 0x90, 4);
      guest.memory.dma.writeU32(CODE + 4, 0xf4f4f4f4);
      expect(run()).toBe(0n);
      expect(guest.codeStats.invalidations).toBeGreaterThanOrEqual(3);
    });
  });

  describe("pages in a row", () => {
    /** mov eax, 44332211h with its last three bytes on the second page; hlt. */
    const start = LINEAR + 0xffe;
    beforeEach(() => {
      mapPages(FIRST, SECOND);
      guest.code(FIRST + 0xffe, 0xb8, 0x11);
      guest.code(SECOND, 0x22, 0x33, 0x44, HLT);
      guest.code(OTHER, 0x55, 0x66, 0x77, HLT);
      // What lies behind the first page physically is not what comes next.
      guest.code(FIRST + 0x1000, 0xee, 0xee, 0xee, 0x0f, 0x0b);
    });

    it("an instruction across two of them, changed on either side", () => {
      expect(run(start)).toBe(0x4433_2211n);
      guest.code(SECOND, 0x99);
      expect(run(start)).toBe(0x4433_9911n);
      guest.code(FIRST + 0xfff, 0x88);
      expect(run(start)).toBe(0x4433_9988n);
    });

    it("the second page moved by INVLPG", () => {
      expect(run(start)).toBe(0x4433_2211n);
      guest.code(CODE, ...store64(TABLE + 8, OTHER | 7), ...invlpg(LINEAR + 0x1000), HLT);
      run();
      expect(run(start)).toBe(0x7766_5511n);
      guest.code(CODE, ...store64(TABLE + 8, SECOND | 7), ...invlpg(LINEAR + 0x1000), HLT);
      run();
      expect(run(start)).toBe(0x4433_2211n);
    });

    it("the second page gone: the fault is at its start, of a fetch", () => {
      mapPages(FIRST, 0);
      guest.memory.dma.writeU64(TABLE + 8, 0n);
      guest.handler(14, [0x58, HLT]); // pop rax
      // Not present, a fetch (SDM Vol. 3A sec. 4.7).
      expect(run(start)).toBe(0x10n);
      expect(guest.vcpu.save().cr2).toBe(BigInt(LINEAR + 0x1000));
      const { gpr } = guest.vcpu.save();
      expect(guest.memory.dma.readU64(Number(gpr[4]))).toBe(BigInt(start));
    });

    it("code that runs on into the next page, wherever that is", () => {
      guest.code(FIRST + 0xff0, ...Array(11).fill(NOP), ...movEax(1));
      guest.code(SECOND, 0x83, 0xc0, 4, HLT);
      guest.code(OTHER, 0x83, 0xc0, 6, HLT);
      expect(run(LINEAR + 0xff0)).toBe(5n);
      guest.code(CODE, ...store64(TABLE + 8, OTHER | 7), ...invlpg(LINEAR + 0x1000), HLT);
      run();
      expect(run(LINEAR + 0xff0)).toBe(7n);
    });

    it("single steps across, again and again", () => {
      for (const value of [0x22, 0x23, 0x24]) {
        guest.code(SECOND, value);
        guest.set((state) => {
          state.rip = BigInt(start);
        });
        const before = guest.codeStats.blocks;
        expect(guest.run({ singleStep: true }).reason).toBe(ExitReason.MonitorTrapFlag);
        const { rip, gpr } = guest.vcpu.save();
        expect([rip, gpr[RAX]]).toEqual([BigInt(LINEAR + 0x1003), BigInt(0x4433_0011 + value * 0x100)]);
        expect(guest.codeStats.blocks - before).toBeLessThanOrEqual(1);
      }
    });

    it("INVLPG anywhere in a large page moves the code of all of it", () => {
      guest.memory.dma.writeU64(DIRECTORY + 8, 0x20_0087n);
      guest.set(() => {});
      guest.code(0x20_5000, ...movEax(1), RET);
      guest.code(0x5000, ...movEax(2), RET);
      guest.code(CODE, ...movRbx(0x20_5000), ...CALL_RBX, ...MOV_ECX_EAX);
      guest.code(CODE + 11, ...store64(DIRECTORY + 8, 0x87), ...invlpg(0x3f_f000), ...CALL_RBX, HLT);
      expect(run()).toBe(2n);
      expect(guest.vcpu.save().gpr[RCX]).toBe(1n);
    });
  });
});

describe("room for decoded code", () => {
  it("runs out anywhere: everything is decoded anew", async () => {
    const at = 0x20_0000;
    const links = 1500;
    // add eax, 1; jmp on: seven bytes, so that some lie across pages
    const chain = Array.from({ length: links }, () => [0x05, 1, 0, 0, 0, 0xeb, 0x00]).flat();
    const back = -(chain.length + 2 + 6);
    for (let decodedBytes = 4096; decodedBytes < 4096 + 48 * 16; decodedBytes += 16) {
      const small = await Guest.open({ decodedBytes });
      // mov ecx, 3; the chain; dec ecx; jnz chain; hlt
      small.code(at, 0xb9, 3, 0, 0, 0, ...chain, 0xff, 0xc9, 0x0f, 0x85, ...u32(back), HLT);
      expect(run(at, small), `${decodedBytes} bytes`).toBe(BigInt(3 * links));
      expect(small.codeStats.flushes).toBeGreaterThan(30);
      // What was decoded last is still found out when it changes.
      small.code(at + 5 + 7 * (links - 1) + 1, 2);
      expect(run(at, small), `${decodedBytes} bytes`).toBe(BigInt(3 * links + 3));
      await small.close();
    }
  });

  it("runs out under compiled code, too", async () => {
    const small = await Guest.open({ decodedBytes: 4096, compileAfter: 0 });
    // mov ecx, 3; 300 times add eax, 1; jmp on; dec ecx; jnz chain; hlt
    const chain = Array.from({ length: 300 }, () => [0x05, 1, 0, 0, 0, 0xeb, 0x00]).flat();
    const back = -(chain.length + 2 + 6);
    small.code(0x20_0000, 0xb9, 3, 0, 0, 0, ...chain, 0xff, 0xc9, 0x0f, 0x85, ...u32(back), HLT);
    expect(run(0x20_0000, small)).toBe(900n);
    expect(small.codeStats.flushes).toBeGreaterThan(3);
    await small.close();
  });

  it("has bounds", async () => {
    await expect(Guest.open({ decodedBytes: 100 })).rejects.toThrow(RangeError);
  });
});
