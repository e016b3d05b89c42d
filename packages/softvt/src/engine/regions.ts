import { UOP_BYTES } from "../cpu/layout.ts";
import type { DecodeTable } from "../isa/table.ts";
import type { Block, CodeReader, RegionSource, Uop } from "../region/index.ts";
import type { CodeCache, CodeCacheObserver } from "./code-cache.ts";
import { REGION_ENTRY_BITS, REGION_WORD_OFFSET } from "./names.ts";

type Compiler = typeof import("../region/index.ts");

const PAGE_BYTES = 4096;
const MODE_BITS = 5;
const MAX_ENTRIES = 1 << REGION_ENTRY_BITS;
/** Samples of a page after which it is compiled again, each time this many times more. */
const BACKOFF = 2;

/** When code is compiled. */
export interface RegionOptions {
  /**
   * Ends of slices that fall into a page before its code is compiled; 0: everything, as soon as it is decoded, and
   * before it runs (for tests).
   */
  readonly hotSamples: number;
}

/** One vCPU's side: an instance of each module, in its table. */
export interface RegionHost {
  readonly table: WebAssembly.Table;
  instantiate(module: WebAssembly.Module): WebAssembly.Exports;
  /** Code of a region was overwritten: one that is running leaves behind the current instruction. */
  setStale(): void;
}

export interface RegionStats {
  /** Regions compiled, and those of them that were overwritten, forgotten or replaced. */
  compiled: number;
  dropped: number;
  instructions: number;
  /** Bytes of WebAssembly. */
  bytes: number;
}

/** A page's code in one mode, as far as it is known to be hot. */
interface HotPage {
  readonly page: number;
  readonly mode: number;
  readonly seeds: Set<number>;
  samples: number;
  threshold: number;
  region: Region | undefined;
  isCompiling: boolean;
}

interface Region {
  readonly hot: HotPage;
  /** Micro-ops of its instructions. */
  readonly uops: readonly number[];
  readonly entries: readonly ({ readonly uop: number } & Replaced)[];
  /** Its place in the tables; -1 until it is installed. */
  slot: number;
  isDead: boolean;
}

/** What stood at a micro-op before it became a region's entry. */
interface Replaced {
  readonly handler: number;
  readonly word: number;
  readonly copy: number;
}

/**
 * Compiled regions: which pages are hot, their compilation, and their place in the decoded code. A region begins at
 * micro-ops that were replaced by `region` ones; when its code changes they become again what they were.
 */
export class Regions implements CodeCacheObserver {
  readonly stats: RegionStats = { compiled: 0, dropped: 0, instructions: 0, bytes: 0 };

  readonly #cache: CodeCache;
  readonly #special: DecodeTable["special"];
  readonly #options: RegionOptions;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #hosts: RegionHost[] = [];
  readonly #hot = new Map<number, HotPage>();
  readonly #byPage = new Map<number, Region[]>();
  readonly #replaced = new Map<number, Replaced>();
  readonly #freeSlots: number[] = [];
  #slots = 0;
  #compiler: Compiler | undefined;
  #loading: Promise<void> | undefined;
  #queue: HotPage[] = [];
  #isClosed = false;

  constructor(
    cache: CodeCache,
    table: DecodeTable,
    buffer: ArrayBufferLike,
    options: RegionOptions,
    compiler: Compiler | undefined,
  ) {
    this.#cache = cache;
    this.#special = table.special;
    this.#options = options;
    this.#compiler = compiler;
    this.#bytes = new Uint8Array(buffer);
    this.#view = new DataView(buffer);
    cache.observer = this;
  }

  addHost(host: RegionHost): void {
    this.#hosts.push(host);
  }

  close(): void {
    this.#isClosed = true;
    this.#queue = [];
  }

  /** A slice ended at arena address `host`: the more often, the hotter. */
  sample(host: number, mode: number): void {
    if (this.#options.hotSamples === 0) return;
    const uop = this.#cache.find(host, mode);
    if (uop === 0 || this.#replaced.has(uop)) return;
    const hot = this.#hotPage(host, mode);
    hot.seeds.add(host & (PAGE_BYTES - 1));
    if (++hot.samples < hot.threshold || hot.isCompiling) return;
    hot.isCompiling = true;
    this.#queue.push(hot);
    if (this.#compiler === undefined)
      this.#loading ??= import("../region/index.ts").then((compiler) => {
        this.#compiler = compiler;
        this.#compileQueue();
      });
    else if (this.#queue.length === 1) queueMicrotask(() => this.#compileQueue());
  }

  /** Compiles the code at arena address `host` now, where everything is to be. */
  promote(host: number, mode: number): void {
    if (this.#options.hotSamples !== 0 || this.#compiler === undefined) return;
    const hot = this.#hotPage(host, mode);
    hot.seeds.add(host & (PAGE_BYTES - 1));
    const made = this.#prepare(hot);
    if (made === undefined) return;
    const bytes = this.#compiler.compileRegions([made.source]);
    this.#install([made.region], new WebAssembly.Module(bytes));
  }

  #hotPage(host: number, mode: number): HotPage {
    const page = host >>> 12;
    const key = page * (1 << MODE_BITS) + mode;
    let hot = this.#hot.get(key);
    if (hot === undefined) {
      const threshold = this.#options.hotSamples;
      hot = { page, mode, seeds: new Set(), samples: 0, threshold, region: undefined, isCompiling: false };
      this.#hot.set(key, hot);
    }
    return hot;
  }

  #compileQueue(): void {
    if (this.#isClosed) return;
    const made = this.#queue.flatMap((hot) => this.#prepare(hot) ?? []);
    this.#queue = [];
    if (made.length === 0) return;
    const bytes = this.#compiler!.compileRegions(made.map(({ source }) => source));
    this.stats.bytes += bytes.length;
    void WebAssembly.compile(bytes).then((module) => {
      if (this.#isClosed) return;
      this.#install(
        made.map(({ region }) => region),
        module,
      );
    });
  }

  /** The graph of a hot page, and the region that is to come of it; `undefined` where there is nothing to compile. */
  #prepare(hot: HotPage): { source: RegionSource; region: Region } | undefined {
    const compiler = this.#compiler!;
    hot.samples = 0;
    hot.threshold *= BACKOFF;
    hot.isCompiling = false;
    const graph = compiler.buildGraph(this.#reader(hot), compiler.allHandlers(), this.#special, hot.seeds);
    const starts = graph.blocks.filter((block) => block.isEntry);
    if (starts.length === 0 || starts.length > MAX_ENTRIES) return undefined;
    const entries: ({ uop: number } & Replaced)[] = [];
    for (const { ops } of starts) {
      const { uop } = ops[0] as Block["ops"][number];
      if (!this.#replaced.has(uop.address)) uop.copy = this.#cache.copyUop(uop.address);
      if (uop.copy === 0) return undefined;
      const word = uop.bytes.getInt32(REGION_WORD_OFFSET, true);
      entries.push({ uop: uop.address, handler: uop.handler, word, copy: uop.copy });
    }
    const uops = graph.blocks.flatMap(({ ops }) => ops.map(({ uop }) => uop.address));
    const region: Region = { hot, uops, entries, slot: -1, isDead: false };
    const list = this.#byPage.get(hot.page);
    if (list === undefined) this.#byPage.set(hot.page, [region]);
    else list.push(region);
    this.stats.compiled++;
    this.stats.instructions += uops.length;
    return { source: { mode: hot.mode, graph }, region };
  }

  #reader(hot: HotPage): CodeReader {
    const base = hot.page * PAGE_BYTES;
    const uop = (address: number): Uop => {
      const bytes = this.#bytes.slice(address, address + UOP_BYTES);
      const view = new DataView(bytes.buffer);
      const replaced = this.#replaced.get(address);
      if (replaced !== undefined) {
        view.setUint16(0, replaced.handler, true);
        view.setInt32(REGION_WORD_OFFSET, replaced.word, true);
      }
      return { address, handler: view.getUint16(0, true), copy: replaced?.copy ?? address, bytes: view };
    };
    return {
      uop,
      uopAt: (pos) => {
        // What follows the page in the arena is not what follows it in the guest's address space.
        const address = pos < PAGE_BYTES ? this.#cache.find(base + pos, hot.mode) : 0;
        return address === 0 ? undefined : uop(address);
      },
      isLookedUp: (pos) => this.#cache.isLookedUp(base + pos, hot.mode),
    };
  }

  #install(regions: readonly Region[], module: WebAssembly.Module): void {
    if (regions.every(({ isDead }) => isDead)) return;
    const exports = this.#hosts.map((host) => host.instantiate(module));
    regions.forEach((region, index) => {
      if (region.isDead) return;
      const { hot } = region;
      if (hot.region !== undefined) this.#drop(hot.region);
      hot.region = region;
      region.slot = this.#freeSlots.pop() ?? this.#slots++;
      this.#hosts.forEach(({ table }, i) => {
        while (table.length <= region.slot) table.grow(Math.max(64, table.length));
        table.set(region.slot, exports[i]![this.#compiler!.regionName(index)]);
      });
      region.entries.forEach(({ uop, handler, word, copy }, entry) => {
        this.#replaced.set(uop, { handler, word, copy });
        this.#view.setUint16(uop, this.#special.region, true);
        this.#view.setInt32(uop + REGION_WORD_OFFSET, entry | (region.slot << REGION_ENTRY_BITS), true);
      });
    });
  }

  /** Ends a region: its entries are again what they were. */
  #drop(region: Region): void {
    if (region.isDead) return;
    region.isDead = true;
    const { hot } = region;
    if (hot.region === region) hot.region = undefined;
    const list = this.#byPage.get(hot.page);
    list?.splice(list.indexOf(region), 1);
    if (list?.length === 0) this.#byPage.delete(hot.page);
    if (region.slot < 0) return;
    this.stats.dropped++;
    for (const { uop, handler, word } of region.entries) {
      this.#view.setUint16(uop, handler, true);
      this.#view.setInt32(uop + REGION_WORD_OFFSET, word, true);
      this.#replaced.delete(uop);
    }
    for (const { table } of this.#hosts) table.set(region.slot, null);
    this.#freeSlots.push(region.slot);
  }

  forgotten(page: number, first: number, last: number): void {
    for (const region of [...(this.#byPage.get(page) ?? [])]) {
      if (!region.uops.some((uop) => uop >= first && uop < last)) continue;
      this.#drop(region);
      for (const host of this.#hosts) host.setStale();
    }
  }

  flushed(): void {
    for (const list of [...this.#byPage.values()]) for (const region of [...list]) this.#drop(region);
    this.#hot.clear();
    for (const host of this.#hosts) host.setStale();
  }
}
