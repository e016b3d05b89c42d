import { VALUE_TYPE, type WasmType } from "./opcodes.ts";

/** A growing byte buffer with WebAssembly's number encodings (Core Specification 2.0, sec. 5.2). */
export class ByteWriter {
  #bytes = new Uint8Array(256);
  length = 0;

  #grow(more: number): void {
    if (this.length + more <= this.#bytes.length) return;
    const bigger = new Uint8Array(Math.max(this.#bytes.length * 2, this.length + more));
    bigger.set(this.#bytes.subarray(0, this.length));
    this.#bytes = bigger;
  }

  u8(value: number): void {
    if (this.length === this.#bytes.length) this.#grow(1);
    this.#bytes[this.length++] = value;
  }

  raw(bytes: ArrayLike<number>): void {
    this.#grow(bytes.length);
    this.#bytes.set(bytes, this.length);
    this.length += bytes.length;
  }

  /** Unsigned LEB128 of a number below 2^32. */
  u32(value: number): void {
    let rest = value >>> 0;
    while (rest >= 0x80) {
      this.u8((rest & 0x7f) | 0x80);
      rest >>>= 7;
    }
    this.u8(rest);
  }

  /** Signed LEB128 of a 32-bit number. */
  s32(value: number): void {
    let rest = value | 0;
    for (;;) {
      const low = rest & 0x7f;
      rest >>= 7;
      if ((rest === 0 && (low & 0x40) === 0) || (rest === -1 && (low & 0x40) !== 0)) {
        this.u8(low);
        return;
      }
      this.u8(low | 0x80);
    }
  }

  /** Signed LEB128 of a 64-bit number. */
  s64(value: bigint): void {
    let rest = BigInt.asIntN(64, value);
    for (;;) {
      const low = Number(rest & 0x7fn);
      rest >>= 7n;
      if ((rest === 0n && (low & 0x40) === 0) || (rest === -1n && (low & 0x40) !== 0)) {
        this.u8(low);
        return;
      }
      this.u8(low | 0x80);
    }
  }

  name(text: string): void {
    const bytes = new TextEncoder().encode(text);
    this.u32(bytes.length);
    this.raw(bytes);
  }

  /** The bytes written so far; a view, valid until the next write. */
  view(): Uint8Array {
    return this.#bytes.subarray(0, this.length);
  }
}

/** A branch that is nearly always, or hardly ever, taken: where its instruction begins in the function's code. */
export interface BranchHint {
  readonly offset: number;
  readonly isLikely: boolean;
}

/** Code of one function, without its local declarations and its final `end`. */
export class CodeWriter extends ByteWriter {
  readonly hints: BranchHint[] = [];

  /** Says whether the condition of the `if` that is written next is likely to hold. */
  hint(isLikely: boolean): void {
    this.hints.push({ offset: this.length, isLikely });
  }
}

export interface Signature {
  readonly params: readonly WasmType[];
  readonly results: readonly WasmType[];
}

interface Body {
  readonly type: number;
  /** Local declarations and code without the size prefix. */
  code: Uint8Array | undefined;
  /** By offset from the start of `code`. */
  hints: readonly BranchHint[];
}

/**
 * Collects a module and writes its bytes. All modules of the engine import the arena's memory as
 * `env.memory` (shared) and the vCPU block's address as the immutable global `env.cpu`.
 */
export class ModuleBuilder {
  readonly #types: string[] = [];
  readonly #typeBytes: Uint8Array[] = [];
  readonly #imports: { name: string; type: number }[] = [];
  readonly #bodies: Body[] = [];
  readonly #exports: { name: string; index: number }[] = [];
  readonly #customSections: { name: string; text: string }[] = [];
  readonly #names = new Map<number, string>();
  /** Function indices of table 0, from slot 0. */
  table: number[] = [];
  /** Name under which table 1, empty and growing, is exported; `undefined`: there is none. */
  openTable: string | undefined;

  typeIndex(signature: Signature): number {
    const key = `${signature.params.join()}:${signature.results.join()}`;
    const known = this.#types.indexOf(key);
    if (known >= 0) return known;
    const out = new ByteWriter();
    out.u8(0x60);
    for (const list of [signature.params, signature.results]) {
      out.u32(list.length);
      for (const type of list) out.u8(VALUE_TYPE[type]);
    }
    this.#typeBytes.push(out.view().slice());
    return this.#types.push(key) - 1;
  }

  /** Declares an imported function `env.name`; all imports come before the first `declare`. */
  importFunction(name: string, signature: Signature): number {
    if (this.#bodies.length > 0) throw new Error("imports must be declared before functions");
    return this.#imports.push({ name, type: this.typeIndex(signature) }) - 1;
  }

  /** Declares a function whose code comes later; returns its index. */
  declare(signature: Signature, name?: string): number {
    const index =
      this.#imports.length +
      this.#bodies.push({ type: this.typeIndex(signature), code: undefined, hints: [] }) -
      1;
    if (name !== undefined) this.#names.set(index, name);
    return index;
  }

  define(index: number, locals: readonly WasmType[], code: CodeWriter): void {
    const out = new ByteWriter();
    const runs: { type: WasmType; count: number }[] = [];
    for (const type of locals) {
      const last = runs[runs.length - 1];
      if (last !== undefined && last.type === type) last.count++;
      else runs.push({ type, count: 1 });
    }
    out.u32(runs.length);
    for (const run of runs) {
      out.u32(run.count);
      out.u8(VALUE_TYPE[run.type]);
    }
    const header = out.length;
    out.raw(code.view());
    const body = this.#bodies[index - this.#imports.length]!;
    body.code = out.view().slice();
    body.hints = code.hints.map(({ offset, isLikely }) => ({ offset: header + offset, isLikely }));
  }

  exportFunction(name: string, index: number): void {
    this.#exports.push({ name, index });
  }

  /** Adds a custom section that holds `text` in UTF-8. */
  customSection(name: string, text: string): void {
    this.#customSections.push({ name, text });
  }

  /** The module. Its memory import accepts an arena of any size. */
  bytes(): Uint8Array<ArrayBuffer> {
    const out = new ByteWriter();
    out.raw([0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00]);
    const section = (id: number, write: (w: ByteWriter) => void): void => {
      const body = new ByteWriter();
      write(body);
      out.u8(id);
      out.u32(body.length);
      out.raw(body.view());
    };
    section(1, (w) => {
      w.u32(this.#typeBytes.length);
      for (const type of this.#typeBytes) w.raw(type);
    });
    section(2, (w) => {
      w.u32(this.#imports.length + 2);
      w.name("env");
      w.name("memory");
      w.u8(0x02);
      w.u8(0x03);
      w.u32(1);
      w.u32(65_536);
      w.name("env");
      w.name("cpu");
      w.raw([0x03, VALUE_TYPE.i32, 0x00]);
      for (const { name, type } of this.#imports) {
        w.name("env");
        w.name(name);
        w.u8(0x00);
        w.u32(type);
      }
    });
    section(3, (w) => {
      w.u32(this.#bodies.length);
      for (const body of this.#bodies) w.u32(body.type);
    });
    if (this.table.length > 0)
      section(4, (w) => {
        w.u32(this.openTable === undefined ? 1 : 2);
        w.raw([0x70, 0x00]);
        w.u32(this.table.length);
        if (this.openTable !== undefined) w.raw([0x70, 0x00, 0x00]);
      });
    section(7, (w) => {
      w.u32(this.#exports.length + (this.openTable === undefined ? 0 : 1));
      if (this.openTable !== undefined) {
        w.name(this.openTable);
        w.raw([0x01, 0x01]);
      }
      for (const { name, index } of this.#exports) {
        w.name(name);
        w.u8(0x00);
        w.u32(index);
      }
    });
    if (this.table.length > 0)
      section(9, (w) => {
        w.raw([0x01, 0x00, 0x41, 0x00, 0x0b]);
        w.u32(this.table.length);
        for (const index of this.table) w.u32(index);
      });
    this.#writeHints(section);
    section(10, (w) => {
      w.u32(this.#bodies.length);
      for (const body of this.#bodies) {
        if (body.code === undefined) throw new Error("a declared function has no code");
        w.u32(body.code.length + 1);
        w.raw(body.code);
        w.u8(0x0b);
      }
    });
    for (const { name, text } of this.#customSections)
      section(0, (w) => {
        w.name(name);
        w.raw(new TextEncoder().encode(text));
      });
    // Names for profilers (Core Specification 2.0, appendix 7.4.1).
    section(0, (w) => {
      w.name("name");
      const names = new ByteWriter();
      const named = [...this.#names].sort(([a], [b]) => a - b);
      names.u32(named.length);
      for (const [index, name] of named) {
        names.u32(index);
        names.name(name);
      }
      w.u8(1);
      w.u32(names.length);
      w.raw(names.view());
    });
    return out.view().slice() as Uint8Array<ArrayBuffer>;
  }

  /** What is likely (the proposal "branch hinting", sec. "Custom section"): it stands before the code. */
  #writeHints(section: (id: number, write: (w: ByteWriter) => void) => void): void {
    const hinted = this.#bodies.flatMap(({ hints }, i) =>
      hints.length === 0 ? [] : [{ index: this.#imports.length + i, hints }],
    );
    if (hinted.length === 0) return;
    section(0, (w) => {
      w.name("metadata.code.branch_hint");
      w.u32(hinted.length);
      for (const { index, hints } of hinted) {
        w.u32(index);
        w.u32(hints.length);
        for (const { offset, isLikely } of hints) {
          w.u32(offset);
          w.u32(1);
          w.u8(isLikely ? 1 : 0);
        }
      }
    });
  }
}
