// Runs a conformance guest in QEMU's TCG: an independent opinion on what the suite expects of a processor.
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { resetVcpuState, type SegmentState, type VcpuStateV1 } from "@skep/vcpu";
import {
  type Guest,
  type StartMode,
  type StartOptions,
  type StopReason,
  startImage,
} from "@skep/vcpu/testing";

const RAM_BYTES = 0xa_0000;
const ROM_BYTES = 0x1_0000;
const GDT = 0x1000;
const TSS_SELECTOR = 0x48;
/** Where the last part of the way into protected and long mode lies: every case maps it one to one. */
const STUB = 0x7800;

export function hasQemu(): boolean {
  return spawnSync("qemu-system-x86_64", ["--version"]).status === 0;
}

/** A guest that QEMU runs; what it does not answer (exits, odd start states) belongs to engines only. */
export class QemuGuest implements Guest {
  readonly #ram = new Uint8Array(RAM_BYTES);
  #after = new Uint8Array(RAM_BYTES);
  #start: { mode: StartMode; state: VcpuStateV1 } | undefined;
  #state: VcpuStateV1 = resetVcpuState();

  get state(): VcpuStateV1 {
    return this.#state;
  }

  load(address: number, bytes: Uint8Array): void {
    this.#ram.set(bytes, address);
  }

  enter(mode: StartMode, options: StartOptions = {}): void {
    const { state, memory } = startImage(mode, options);
    for (const [address, bytes] of memory) this.load(address, bytes);
    this.#start = { mode, state };
  }

  run(): StopReason {
    const directory = mkdtempSync(join(tmpdir(), "skep-oracle-"));
    const file = (name: string): string => join(directory, name);
    try {
      const { mode, state } = this.#start!;
      // LTR wants an available TSS and makes it busy.
      if (mode !== "real") this.#ram[GDT + TSS_SELECTOR + 5]! &= ~2;
      const { rom, stub } = firmware(mode, state);
      this.#ram.set(stub, STUB);
      writeFileSync(file("ram.bin"), this.#ram);
      writeFileSync(file("rom.bin"), rom);
      const machine = [
        "-machine pc,accel=tcg -cpu max,vendor=GenuineIntel -m 64 -display none -serial none -net none -no-reboot -monitor stdio",
        `-bios ${file("rom.bin")} -device loader,file=${file("ram.bin")},addr=0,force-raw=on`,
      ].join(" ");
      const commands = `sleep 0.4; echo 'pmemsave 0 ${RAM_BYTES} "${file("after.bin")}"'; echo info registers; echo quit`;
      const { stdout } = spawnSync("sh", ["-c", `(${commands}) | qemu-system-x86_64 ${machine}`], {
        encoding: "utf8",
      });
      if (!stdout.includes("EFER=")) return "triple-fault";
      this.#after = new Uint8Array(readFileSync(file("after.bin")));
      this.#state = parse(stdout);
      return / HLT=1/.test(stdout) ? "halt" : "endless";
    } finally {
      rmSync(directory, { recursive: true });
    }
  }

  u8(address: number): number {
    return this.#after[address]!;
  }

  u16(address: number): number {
    return new DataView(this.#after.buffer).getUint16(address, true);
  }

  u32(address: number): number {
    return new DataView(this.#after.buffer).getUint32(address, true);
  }

  u64(address: number): bigint {
    return new DataView(this.#after.buffer).getBigUint64(address, true);
  }
}

/** Firmware that brings a processor from the reset vector into the start state. */
function firmware(mode: StartMode, state: VcpuStateV1): { rom: Uint8Array; stub: Uint8Array } {
  let code: number[] = [];
  const byte = (...bytes: number[]): void => void code.push(...bytes);
  const le = (value: bigint | number, bytes: number): void => {
    for (let i = 0; i < bytes; i++) byte(Number((BigInt(value) >> BigInt(8 * i)) & 0xffn));
  };
  byte(0xfa); // cli
  if (mode === "real") {
    byte(0x66, 0xb8); // mov eax, cr0's value
    le(state.cr0, 4);
    byte(0x0f, 0x22, 0xc0, 0xb8, 0, 0); // mov cr0, eax; mov ax, 0
    byte(0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0x8e, 0xe0, 0x8e, 0xe8); // mov ds, es, ss, fs, gs, ax
    for (let r = 0; r < 8; r++) {
      byte(0x66, 0xb8 + r); // mov r32, imm32
      le(state.gpr[r]!, 4);
    }
    byte(0x66, 0x68); // push dword flags; popfd
    le(state.rflags, 4);
    byte(0x66, 0x9d, 0xea); // jmp 0:entry
    le(state.rip, 2);
    le(0, 2);
    return { rom: image(code), stub: new Uint8Array() };
  }

  const tables = 0x8000;
  byte(0x2e, 0x66, 0x0f, 0x01, 0x16); // lgdt cs:[tables]
  le(tables, 2);
  byte(0x2e, 0x66, 0x0f, 0x01, 0x1e); // lidt cs:[tables + 8]
  le(tables + 8, 2);
  byte(0x66, 0xb8); // mov eax, cr0's value without PG
  le(state.cr0 & 0x7fff_ffffn, 4);
  byte(0x0f, 0x22, 0xc0);
  byte(0x66, 0xea); // jmp dword 8:STUB
  le(STUB, 4);
  le(8, 2);
  const first = code;
  code = [];
  byte(0x66, 0xb8, 0x10, 0x00, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0x8e, 0xe0, 0x8e, 0xe8);
  byte(0x66, 0xb8, TSS_SELECTOR, 0x00, 0x0f, 0x00, 0xd8); // ltr ax
  byte(0xb8);
  le(state.cr4, 4);
  byte(0x0f, 0x22, 0xe0, 0xb8); // mov cr4, eax
  le(state.cr3, 4);
  byte(0x0f, 0x22, 0xd8); // mov cr3, eax
  byte(0xb9, 0x80, 0x00, 0x00, 0xc0, 0xb8); // EFER without LMA
  le((state.msrs.c0000080 ?? 0n) & ~0x400n, 4);
  byte(0x31, 0xd2, 0x0f, 0x30, 0xb8); // xor edx, edx; wrmsr
  le(state.cr0, 4);
  byte(0x0f, 0x22, 0xc0); // mov cr0, eax
  if (mode === "protected") {
    for (let r = 0; r < 8; r++) {
      byte(0xb8 + r);
      le(state.gpr[r]!, 4);
    }
    byte(0x68);
    le(state.rflags, 4);
    byte(0x9d, 0xea); // popfd; jmp 8:entry
    le(state.rip, 4);
    le(8, 2);
  } else {
    byte(0xea); // jmp 0x28:next instruction
    le(STUB + code.length + 6, 4);
    le(0x28, 2);
    for (let r = 0; r < 16; r++) {
      byte(r < 8 ? 0x48 : 0x49, 0xb8 + (r & 7));
      le(state.gpr[r]!, 8);
    }
    byte(0x68);
    le(state.rflags, 4);
    byte(0x9d, 0xff, 0x25, 0, 0, 0, 0); // popfq; jmp [rip]
    le(state.rip, 8);
  }
  const result = image(first);
  const view = new DataView(result.buffer);
  view.setUint16(tables, state.gdtr.limit, true);
  view.setUint32(tables + 2, Number(state.gdtr.base), true);
  view.setUint16(tables + 8, state.idtr.limit, true);
  view.setUint32(tables + 10, Number(state.idtr.base), true);
  return { rom: result, stub: Uint8Array.from(code) };
}

function image(code: readonly number[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(ROM_BYTES);
  bytes.set(code);
  bytes.set([0xe9, 0x0d, 0x00], 0xfff0); // jmp to offset 0: 0xfff3 + 0x0d wraps to 0
  return bytes;
}

function parse(text: string): VcpuStateV1 {
  const state = resetVcpuState();
  const value = (name: string): bigint | undefined => {
    const found = new RegExp(`(?:^|\\s)${name} ?=([0-9a-f]+)`, "m").exec(text);
    return found ? BigInt(`0x${found[1]}`) : undefined;
  };
  ["AX", "CX", "DX", "BX", "SP", "BP", "SI", "DI"].forEach((name, i) => {
    state.gpr[i] = value(`R${name}`) ?? value(`E${name}`)!;
  });
  for (let i = 8; i < 16; i++) state.gpr[i] = value(`R${i}`) ?? 0n;
  state.rip = (value("RIP") ?? value("EIP"))!;
  state.rflags = (value("RFL") ?? value("EFL"))!;
  state.cr0 = value("CR0")!;
  state.cr2 = value("CR2")!;
  state.cr3 = value("CR3")!;
  state.cr4 = value("CR4")!;
  state.dr = {
    dr0: value("DR0")!,
    dr1: value("DR1")!,
    dr2: value("DR2")!,
    dr3: value("DR3")!,
    dr6: value("DR6")!,
    dr7: value("DR7")!,
  };
  state.msrs.c0000080 = value("EFER")!;
  const names = {
    ES: "es",
    CS: "cs",
    SS: "ss",
    DS: "ds",
    FS: "fs",
    GS: "gs",
    LDT: "ldtr",
    TR: "tr",
  } as const;
  for (const [qemu, name] of Object.entries(names)) {
    const found = new RegExp(`^${qemu} *=([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+)`, "m").exec(text)!;
    const [selector, base, limit, flags] = found.slice(1).map((digits) => BigInt(`0x${digits}`));
    const segment: SegmentState = {
      selector: Number(selector),
      base: base!,
      limit: Number(limit),
      access: Number((flags! >> 8n) & 0xf0ffn),
    };
    state[name] = segment;
  }
  for (const [, register, high, low] of text.matchAll(/XMM(\d\d)=([0-9a-f]{16}) ([0-9a-f]{16})/g)) {
    state.fpu.xmm[Number(register)] = BigInt(`0x${high}${low}`);
  }
  state.activity = / HLT=1/.test(text) ? "halted" : "active";
  return state;
}
