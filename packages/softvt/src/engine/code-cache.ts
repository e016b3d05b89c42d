import {
  HASH,
  HASH_ENTRIES,
  HASH_ENTRY_BYTES,
  LINES,
  Mode,
  UOP_BYTES,
  UOPS,
  UOPS_BYTES,
} from "../cpu/layout.ts";
import { type Decoded, Decoder } from "../decode/decoder.ts";
import type { InsnCoding } from "../isa/registry.ts";
import type { DecodeTable, Form } from "../isa/table.ts";
import { InstructionMap } from "./instruction-map.ts";

const PAGE_BYTES = 4096;
const CODE_FLAG = 2;
/** A block may not grow beyond this many instructions: decoding far ahead of execution is wasted. */
const MAX_BLOCK = 96;

/** A run of micro-ops decoded from one page. */
interface Block {
  /** Offsets in the page: first byte, and one past the last. */
  readonly start: number;
  readonly end: number;
  /** Address of the first micro-op, and one past the last. */
  readonly first: number;
  readonly last: number;
  readonly mode: number;
  /** The `straddle` micro-op that leads here, if one does. */
  readonly straddle?: number | undefined;
}

/** What is decoded from one page of the arena. */
interface CodePage {
  blocks: Block[];
}

/** Who is told when decoded code is forgotten; before it is. */
export interface CodeCacheObserver {
  /** Micro-ops at [first, last), of code in `page`. */
  forgotten(page: number, first: number, last: number): void;
  flushed(): void;
}

export interface CodeCacheStats {
  instructions: number;
  blocks: number;
  invalidations: number;
  flushes: number;
}

/** Whether it may fault in its register form, too: by CR0.TS, or by what its operands hold (SDM Vol. 1 sec. 11.5). */
const usesVectors = ({ operands }: InsnCoding): boolean => operands.some(({ kind }) => /[VWPQ]/.test(kind));

/**
 * Decoded code: micro-ops in the arena, found by (arena address, mode), forgotten when their bytes change.
 *
 * Micro-ops are keyed by where their code lies in memory, not by its linear address: every process that
 * maps a page of a library shares them. What is forgotten is overwritten by `stale` micro-ops, so nothing
 * that points to it has to be found; space is taken back only by forgetting everything.
 */
export class CodeCache {
  readonly stats: CodeCacheStats = { instructions: 0, blocks: 0, invalidations: 0, flushes: 0 };

  readonly #bytes: Uint8Array;
  readonly #u16: Uint16Array;
  readonly #i32: Int32Array;
  readonly #decoder: Decoder;
  readonly #handlers: DecodeTable;
  readonly #flags: Uint8Array;
  /** Takes write permission for an arena page out of every vCPU's TLB. */
  readonly #protect: (page: number) => void;
  /** Called when everything was forgotten. */
  readonly #flushed: () => void;
  observer: CodeCacheObserver | undefined;
  #next = UOPS;
  /** One past the last micro-op there is room for. */
  readonly #end: number;
  /** (address, mode) of each decoded instruction → micro-op. */
  readonly #instructions = new InstructionMap();
  #pages = new Map<number, CodePage>();
  /** Space for `decodeStep`, one instruction and its stop, reused. */
  readonly #step: number;
  readonly #scratch = new Uint8Array(32);

  constructor(
    buffer: ArrayBufferLike,
    flags: Uint8Array,
    handlers: DecodeTable,
    protect: (page: number) => void,
    flushed: () => void,
    uopBytes = UOPS_BYTES,
  ) {
    this.#end = UOPS + uopBytes;
    this.#bytes = new Uint8Array(buffer);
    this.#u16 = new Uint16Array(buffer);
    this.#i32 = new Int32Array(buffer);
    this.#flags = flags;
    this.#handlers = handlers;
    this.#decoder = new Decoder(handlers);
    this.#protect = protect;
    this.#flushed = flushed;
    this.#step = UOPS;
    this.#next = UOPS + 4 * UOP_BYTES;
  }

  /** The micro-op for the code at arena address `host`, decoding it if need be. */
  decode(host: number, mode: number): number {
    let uop = this.#instructions.get(host, mode);
    if (uop === 0) {
      if (this.#next + (MAX_BLOCK + 4) * UOP_BYTES > this.#end) this.flush();
      uop = this.#decodeBlock(host, mode);
    }
    const slot = (HASH + ((host ^ (host >>> 15)) & (HASH_ENTRIES - 1)) * HASH_ENTRY_BYTES) >> 2;
    this.#i32[slot] = host;
    this.#i32[slot + 1] = mode | 0x100;
    this.#i32[slot + 2] = uop;
    return uop;
  }

  /** The micro-op decoded for (arena address, mode), or 0. */
  find(host: number, mode: number): number {
    return this.#instructions.get(host, mode);
  }

  /** Whether the hash has (arena address, mode): something looked it up of late. */
  isLookedUp(host: number, mode: number): boolean {
    const slot = (HASH + ((host ^ (host >>> 15)) & (HASH_ENTRIES - 1)) * HASH_ENTRY_BYTES) >> 2;
    return this.#i32[slot] === host && this.#i32[slot + 1] === (mode | 0x100);
  }

  /** Puts a micro-op's 16 bytes into the arena; its address, or 0 where there is no room. It lasts until the next flush. */
  addUop(bytes: DataView): number {
    if (this.#next + UOP_BYTES > this.#end) return 0;
    const at = this.#next;
    this.#next += UOP_BYTES;
    this.#bytes.set(new Uint8Array(bytes.buffer, bytes.byteOffset, UOP_BYTES), at);
    return at;
  }

  #decodeBlock(host: number, mode: number): number {
    const page = host >>> 12;
    const base = page * PAGE_BYTES;
    const first = this.#next;
    let pos = host - base;
    const start = pos;
    const forms: (Form | undefined)[] = [];
    const eas: string[] = [];
    const { special } = this.#handlers;
    for (;;) {
      if (pos === PAGE_BYTES || forms.length >= MAX_BLOCK) {
        // Going on at `pos` is going on one byte behind pos - 1.
        this.#emitSpecial(special.pageEnd, pos - 1, 1, 0, 0);
        break;
      }
      const known = forms.length > 0 ? this.#instructions.get(base + pos, mode) : 0;
      if (known !== 0) {
        this.#emitSpecial(special.goto, pos, 0, 0, known);
        break;
      }
      const decoded = this.#decoder.decode(this.#bytes, base + pos, pos, mode);
      if (pos + Math.min(decoded.length, 15) > PAGE_BYTES) {
        this.#instructions.set(base + pos, mode, this.#next);
        // No page has this number: the first execution finds out which one follows.
        this.#emitSpecial(special.straddle, pos, 0, -1, 0);
        pos = PAGE_BYTES;
        break;
      }
      this.#instructions.set(base + pos, mode, this.#next);
      if (decoded.form === undefined) {
        const handler = decoded.length > 15 ? special.tooLong : special.undefined;
        this.#emitSpecial(handler, pos, Math.min(decoded.length, 15), 0, 0);
        pos += Math.min(decoded.length, 15);
        break;
      }
      this.#emit(decoded, pos);
      forms.push(decoded.form);
      eas.push(decoded.ea);
      pos += decoded.length;
      this.stats.instructions++;
      if (decoded.form.spec.ends === true) break;
    }
    this.#refine({ first, mode }, forms, eas);
    this.stats.blocks++;
    this.#register(page, { start, end: Math.min(pos, PAGE_BYTES), first, last: this.#next, mode });
    return first;
  }

  /**
   * Looks back over a block: flags that the next instructions overwrite before anything can see them need
   * not be kept, and a compare with the branch behind it becomes one handler, which knows of no segment's limit.
   */
  #refine(
    { first, mode }: Pick<Block, "first" | "mode">,
    forms: readonly (Form | undefined)[],
    eas: readonly string[],
  ): void {
    const isFlat = (mode & Mode.FLAT) !== 0;
    let live = true;
    for (let i = forms.length - 1; i >= 0; i--) {
      const form = forms[i]!;
      const at = first + i * UOP_BYTES;
      const { flags } = form.spec;
      if (!live) {
        const pair = form.handlers[eas[i] as keyof Form["handlers"]] ?? form.handlers.any!;
        if (this.#u16[at >> 1] === pair.wanted) this.#u16[at >> 1] = pair.dead;
      }
      if (form.memory || flags === undefined || usesVectors(form.spec)) live = true;
      else if (flags === "set") live = false;
      const next = forms[i + 1];
      if (isFlat && form.fused !== undefined && next?.spec.name === "Jcc" && next.opsize !== 16)
        this.#u16[at >> 1] = form.fused[next.spec.opcode & 15]!;
    }
  }

  #emit(decoded: Decoded, pos: number): void {
    const form = decoded.form!;
    const pair = form.handlers[decoded.ea as keyof Form["handlers"]] ?? form.handlers.any!;
    const at = this.#next;
    this.#next += UOP_BYTES;
    this.#u16[at >> 1] = pair.wanted;
    this.#u16[(at >> 1) + 1] = pos | (decoded.length << 12);
    this.#bytes[at + 4] = decoded.a;
    this.#bytes[at + 5] = decoded.b;
    this.#bytes[at + 6] = decoded.c;
    this.#bytes[at + 7] = decoded.d;
    this.#i32[(at >> 2) + 2] = decoded.imm;
    this.#i32[(at >> 2) + 3] = decoded.target === undefined ? decoded.imm2 : 0;
  }

  #emitSpecial(handler: number, pos: number, length: number, imm: number, imm2: number): void {
    const at = this.#next;
    this.#next += UOP_BYTES;
    this.#u16[at >> 1] = handler;
    this.#u16[(at >> 1) + 1] = pos | (length << 12);
    this.#i32[(at >> 2) + 1] = 0;
    this.#i32[(at >> 2) + 2] = imm;
    this.#i32[(at >> 2) + 3] = imm2;
  }

  #register(page: number, block: Block): void {
    let entry = this.#pages.get(page);
    if (entry === undefined) {
      entry = { blocks: [] };
      this.#pages.set(page, entry);
    }
    entry.blocks.push(block);
    if ((this.#flags[page]! & CODE_FLAG) === 0) {
      this.#flags[page] = this.#flags[page]! | CODE_FLAG;
      this.#protect(page);
    }
    for (let line = block.start >> 6; line <= (block.end - 1) >> 6; line++) {
      const word = ((LINES + page * 8) >> 2) + (line >> 5);
      this.#i32[word] = this.#i32[word]! | (1 << (line & 31));
    }
  }

  /**
   * The instruction at `host`, which goes on in the page that holds arena address `next`: its micro-op,
   * followed by a look-up of what comes behind it. The `straddle` micro-op at `uop` will remember it.
   */
  decodeStraddling(host: number, next: number, mode: number, uop: number): number {
    const pos = host & (PAGE_BYTES - 1);
    const rest = PAGE_BYTES - pos;
    const nextPage = next >>> 12;
    this.#scratch.set(this.#bytes.subarray(host, host + rest));
    this.#scratch.set(this.#bytes.subarray(nextPage * PAGE_BYTES, nextPage * PAGE_BYTES + 16), rest);
    if (uop === this.#step) {
      // A step is decoded anew each time: nothing to remember, nothing to forget.
      const saved = this.#next;
      this.#next = this.#step + UOP_BYTES;
      this.#emitOne(this.#scratch, 0, pos, mode);
      this.#next = saved;
      return this.#step + UOP_BYTES;
    }
    let straddle: number | undefined = uop;
    if (this.#next + 4 * UOP_BYTES > this.#end) {
      this.flush();
      // The micro-op that asked is void, but the answer is still stored in it: not on top of what is new.
      straddle = undefined;
      if (uop < this.#next + 4 * UOP_BYTES) this.#next = uop + UOP_BYTES;
    }
    const first = this.#next;
    this.#emitOne(this.#scratch, 0, pos, mode);
    const block = { first, last: this.#next, mode, straddle };
    this.#register(host >>> 12, { ...block, start: pos, end: PAGE_BYTES });
    this.#register(nextPage, { ...block, start: 0, end: 15 - rest + 1 });
    return first;
  }

  /** One instruction and a stop behind it, for a single step. The result is valid until the next call. */
  decodeStep(host: number, mode: number): number {
    const pos = host & (PAGE_BYTES - 1);
    const saved = this.#next;
    this.#next = this.#step;
    const decoded = this.#decoder.decode(this.#bytes, host, pos, mode);
    if (pos + Math.min(decoded.length, 15) > PAGE_BYTES)
      this.#emitSpecial(this.#handlers.special.straddle, pos, 0, -1, 0);
    else this.#emitOne(this.#bytes, host, pos, mode);
    this.#next = saved;
    return this.#step;
  }

  #emitOne(bytes: Uint8Array, at: number, pos: number, mode: number): void {
    const { special } = this.#handlers;
    const decoded = this.#decoder.decode(bytes, at, pos, mode);
    const length = Math.min(decoded.length, 15);
    if (decoded.form !== undefined) this.#emit(decoded, pos);
    else this.#emitSpecial(decoded.length > 15 ? special.tooLong : special.undefined, pos, length, 0, 0);
    this.#emitSpecial(special.pageEnd, pos, length, 0, 0);
  }

  /** Arena bytes [host, host + length) were written: forgets what was decoded from them. */
  written(host: number, length: number): void {
    const end = host + length;
    for (let page = host >>> 12; page <= (end - 1) >>> 12; page++) {
      const entry = this.#pages.get(page);
      if (entry === undefined) continue;
      const from = host - page * PAGE_BYTES;
      const to = end - page * PAGE_BYTES;
      const kept: Block[] = [];
      for (const block of entry.blocks) {
        if (block.start < to && block.end > from) this.#forget(page, block);
        else kept.push(block);
      }
      if (kept.length === entry.blocks.length) continue;
      entry.blocks = kept;
      this.stats.invalidations++;
      const word = (LINES + page * 8) >> 2;
      this.#i32[word] = 0;
      this.#i32[word + 1] = 0;
      for (const block of kept)
        for (let line = block.start >> 6; line <= (block.end - 1) >> 6; line++)
          this.#i32[word + (line >> 5)] = this.#i32[word + (line >> 5)]! | (1 << (line & 31));
      if (kept.length === 0) {
        this.#pages.delete(page);
        this.#flags[page] = this.#flags[page]! & ~CODE_FLAG;
      }
    }
  }

  #forget(page: number, block: Block): void {
    this.observer?.forgotten(page, block.first, block.last);
    const { stale } = this.#handlers.special;
    // The straddling micro-op is to find out anew what it leads to.
    if (block.straddle !== undefined) this.#i32[(block.straddle >> 2) + 2] = -1;
    for (let at = block.first; at < block.last; at += UOP_BYTES) {
      const pos = this.#u16[(at >> 1) + 1]! & 0xfff;
      const host = page * PAGE_BYTES + pos;
      // A stale micro-op keeps its position: whoever comes here looks it up again. The stop at a block's end
      // goes on behind its position and must stay as it is.
      if (this.#u16[at >> 1] !== this.#handlers.special.pageEnd) {
        this.#u16[at >> 1] = stale;
        if (this.#instructions.get(host, block.mode) === at) this.#instructions.delete(host, block.mode);
        const slot = (HASH + ((host ^ (host >>> 15)) & (HASH_ENTRIES - 1)) * HASH_ENTRY_BYTES) >> 2;
        if (this.#i32[slot + 2] === at) this.#i32[slot + 1] = 0;
      }
    }
  }

  /** Forgets everything. Micro-op addresses given out before are void. */
  flush(): void {
    this.stats.flushes++;
    this.observer?.flushed();
    for (const page of this.#pages.keys()) {
      this.#flags[page] = this.#flags[page]! & ~CODE_FLAG;
      const word = (LINES + page * 8) >> 2;
      this.#i32[word] = 0;
      this.#i32[word + 1] = 0;
    }
    this.#pages.clear();
    this.#instructions.clear();
    this.#i32.fill(0, HASH >> 2, (HASH + HASH_ENTRIES * HASH_ENTRY_BYTES) >> 2);
    this.#next = UOPS + 4 * UOP_BYTES;
    this.#flushed();
  }
}
