import { UOP_BYTES } from "../cpu/layout.ts";
import type { DecodeTable } from "../isa/table.ts";
import type { Block, RegionSource } from "../region/index.ts";
import type { CodeCache, CodeCacheObserver } from "./code-cache.ts";
import { type HotPage, HotPages } from "./hot-pages.ts";
import { REGION_ENTRY_BITS, REGION_WORD_OFFSET } from "./names.ts";
import { type Batch, RegionBudget } from "./region-budget.ts";
import { type CodePlace, type Replaced, readCode } from "./region-reader.ts";

type Compiler = typeof import("../region/index.ts");

const PAGE_BYTES = 4096;
const MAX_ENTRIES = 1 << REGION_ENTRY_BITS;
/** Ends of slices that find the same call out of a region to have missed, until its target is compiled. */
const MISSED_SAMPLES = 48;
/** Such a region is about the function alone: statements of its descriptions at most. */
const MISSED_STATEMENTS = 1000;
/** Places that calls missed: beyond so many they are counted anew. */
const MAX_MISSED = 4096;
/** Regions made at once of one page. */
const MAX_REGIONS = 4;
/** Regions that wait for their generation, which comes when the event loop has its turn. */
const MAX_QUEUE = 64;

/** When code is compiled. */
export interface RegionOptions {
  /**
   * Ends of slices that fall into a page before its code is compiled; 0: everything, as soon as it is decoded, and
   * before it runs (for tests).
   */
  readonly hotSamples: number;
  /** Room for compiled code, in bytes of WebAssembly. */
  readonly maxBytes: number;
  /** Address of the vCPU block, where there is but one vCPU. */
  readonly cpu?: number | undefined;
}

/** One vCPU's side: an instance of each module, in its table. */
export interface RegionHost {
  readonly table: WebAssembly.Table;
  instantiate(module: WebAssembly.Module): WebAssembly.Exports;
  /** Code of a region was overwritten: one that is running leaves behind the current instruction. */
  setStale(): void;
}

export interface RegionStats {
  /** Regions compiled, and those of them that were overwritten, forgotten, replaced or evicted. */
  compiled: number;
  dropped: number;
  /** Regions dropped for want of room. */
  evicted: number;
  /** Regions that could not be compiled. */
  failed: number;
  instructions: number;
  /** Bytes of WebAssembly. */
  bytes: number;
  /** Of them, those that are not dropped, with 4 KiB more for each module. */
  usedBytes: number;
}

interface Region {
  /** Its pages: arena page number → offset from its home. */
  readonly pages: ReadonlyMap<number, number>;
  /** Offsets from its home page that it was grown from. */
  readonly seeds: readonly number[];
  /** What it takes the place of; until it is installed. */
  replaces: Region | undefined;
  /** Micro-ops of its instructions. */
  readonly uops: ReadonlySet<number>;
  readonly entries: readonly ({ readonly uop: number } & Replaced)[];
  /** Its place in the tables; -1 until it is installed. */
  slot: number;
  isDead: boolean;
  batch: RegionBatch | undefined;
}

interface RegionBatch extends Batch {
  readonly regions: readonly Region[];
}

interface Prepared {
  readonly source: RegionSource;
  readonly region: Region;
}

/**
 * Compiled regions: which pages are hot, their compilation, and their place in the decoded code. A region begins at
 * micro-ops that were replaced by `region` ones; when its code changes they become again what they were.
 */
export class Regions implements CodeCacheObserver {
  readonly #stats = { compiled: 0, dropped: 0, evicted: 0, failed: 0, instructions: 0, bytes: 0 };

  readonly #cache: CodeCache;
  readonly #special: DecodeTable["special"];
  readonly #options: RegionOptions;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #hosts: RegionHost[] = [];
  readonly #hot: HotPages;
  readonly #budget: RegionBudget<RegionBatch>;
  /** By micro-op: ends of slices before which a call out of a region had missed it. */
  readonly #missed = new Map<number, number>();
  readonly #byPage = new Map<number, Region[]>();
  readonly #replaced = new Map<number, Replaced>();
  readonly #freeSlots: number[] = [];
  #slots = 0;
  #compiler: Compiler | undefined;
  #loading: Promise<void> | undefined;
  #queue: Prepared[] = [];
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
    this.#hot = new HotPages(options.hotSamples);
    this.#budget = new RegionBudget(options.maxBytes);
    this.#compiler = compiler;
    this.#bytes = new Uint8Array(buffer);
    this.#view = new DataView(buffer);
    cache.observer = this;
  }

  get stats(): RegionStats {
    return { ...this.#stats, usedBytes: this.#budget.used };
  }

  addHost(host: RegionHost): void {
    // Its table has none of the regions made so far.
    this.#dropAll();
    this.#hosts.push(host);
  }

  close(): void {
    this.#isClosed = true;
    this.#queue = [];
  }

  /** A slice ended at a place: the more often, the hotter. */
  sample(place: CodePlace): void {
    const { host, mode } = place;
    const uop = this.#cache.find(host, mode);
    if (uop === 0) return;
    const region = this.#regionAt(host >>> 12, uop);
    if (region?.batch !== undefined) region.batch.isUsed = true;
    if (this.#options.hotSamples === 0 || this.#replaced.has(uop)) return;
    const hot = this.#hot.sample(host, mode);
    if (hot === undefined || this.#queue.length >= MAX_QUEUE || this.#budget.isBusy) return;
    if (this.#compiler === undefined) {
      this.#loading ??= import("../region/index.ts").then((compiler) => {
        this.#compiler = compiler;
      });
      return;
    }
    this.#enqueue(this.#prepare(hot, place));
  }

  /**
   * A call out of a region met code that is no region, so that all regions waiting for calls to come back were left:
   * that is dear however short the code is, and slices seldom end in it.
   */
  missed(place: CodePlace): void {
    const { host, mode } = place;
    const uop = this.#cache.find(host, mode);
    if (uop === 0 || this.#options.hotSamples === 0 || this.#replaced.has(uop)) return;
    // Under way already.
    const here = this.#byPage.get(host >>> 12) ?? [];
    if (here.some(({ slot, entries }) => slot < 0 && entries.some((entry) => entry.uop === uop))) return;
    const count = (this.#missed.get(uop) ?? 0) + 1;
    if (this.#missed.size >= MAX_MISSED) this.#missed.clear();
    this.#missed.set(uop, count);
    if (count < MISSED_SAMPLES || this.#compiler === undefined) return;
    if (this.#queue.length >= MAX_QUEUE || this.#budget.isBusy) return;
    this.#missed.delete(uop);
    const seeds = [host & (PAGE_BYTES - 1)];
    const made = this.#prepareRegion(mode, seeds, place.pageAt, undefined, MISSED_STATEMENTS);
    if (made !== undefined) this.#enqueue([made]);
  }

  #enqueue(made: readonly Prepared[]): void {
    const wasEmpty = this.#queue.length === 0;
    this.#queue.push(...made);
    if (wasEmpty) queueMicrotask(() => this.#compileQueue());
  }

  /** Compiles the code at a place now, where everything is to be. */
  promote(place: CodePlace): void {
    if (this.#options.hotSamples !== 0 || this.#compiler === undefined) return;
    const hot = this.#hot.sample(place.host, place.mode);
    const made = hot === undefined ? [] : this.#prepare(hot, place);
    if (made.length === 0) return;
    const { batch, bytes } = this.#generate(made);
    const module = new WebAssembly.Module(bytes);
    this.#budget.compiled(batch);
    this.#install(batch, module);
  }

  #regionAt(page: number, uop: number): Region | undefined {
    return this.#byPage.get(page)?.find((region) => region.uops.has(uop));
  }

  #compileQueue(): void {
    if (this.#isClosed) return;
    const made = this.#queue.filter(({ region }) => !region.isDead);
    this.#queue = [];
    if (made.length === 0) return;
    let begun: { readonly batch: RegionBatch; readonly bytes: Uint8Array<ArrayBuffer> };
    try {
      begun = this.#generate(made);
    } catch {
      this.#giveUp(made.map(({ region }) => region));
      return;
    }
    const { batch, bytes } = begun;
    WebAssembly.compile(bytes).then(
      (module) => {
        this.#budget.compiled(batch);
        if (!this.#isClosed) this.#install(batch, module);
      },
      () => {
        this.#budget.compiled(batch);
        this.#giveUp(batch.regions);
        this.#budget.end(batch);
      },
    );
  }

  /** The module of regions, for which others have made room. */
  #generate(made: readonly Prepared[]): { batch: RegionBatch; bytes: Uint8Array<ArrayBuffer> } {
    const bytes = this.#compiler!.compileRegions(made.map(({ source }) => source));
    const batch = { bytes: bytes.length, regions: made.map(({ region }) => region), isUsed: false };
    this.#stats.bytes += bytes.length;
    this.#budget.begin(batch);
    this.#makeRoom();
    return { batch, bytes };
  }

  /** What cannot be compiled, for want of memory or by a mistake of ours, goes on being interpreted. */
  #giveUp(regions: readonly Region[]): void {
    this.#stats.failed += regions.length;
    for (const region of regions) this.#drop(region);
  }

  #makeRoom(): void {
    for (let batch = this.#budget.victim(); batch !== undefined; batch = this.#budget.victim())
      for (const region of batch.regions) {
        if (region.isDead) continue;
        this.#stats.evicted++;
        this.#drop(region);
      }
  }

  /** What is to be compiled of a hot page: regions around where slices ended, the hottest place first. */
  #prepare(hot: HotPage, { pageAt }: CodePlace): Prepared[] {
    const seeds = this.#hot.take(hot);
    const made: Prepared[] = [];
    const uopAt = (pos: number): number => this.#cache.find(hot.page * PAGE_BYTES + pos, hot.mode);
    for (const seed of seeds) {
      const uop = uopAt(seed);
      if (uop === 0 || this.#replaced.has(uop) || made.some(({ region }) => region.uops.has(uop))) continue;
      // A place within a region that was not an entry becomes one, and so do the others there.
      const replaces = this.#regionAt(hot.page, uop);
      const page = replaces?.pages.get(hot.page) ?? 0;
      const also = replaces ? seeds.filter((pos) => replaces.uops.has(uopAt(pos))) : [];
      const all = [seed, ...also].map((pos) => page + pos);
      const region = this.#prepareRegion(
        hot.mode,
        [...all, ...(replaces?.seeds ?? [])],
        (offset) => pageAt(offset - page),
        replaces,
      );
      if (region !== undefined) made.push(region);
      if (made.length === MAX_REGIONS) break;
    }
    return made;
  }

  #prepareRegion(
    mode: number,
    seeds: readonly number[],
    pageAt: CodePlace["pageAt"],
    replaces: Region | undefined,
    limit?: number,
  ): Prepared | undefined {
    const compiler = this.#compiler!;
    const code = { cache: this.#cache, bytes: this.#bytes, replaced: this.#replaced };
    const reader = readCode(code, mode, pageAt);
    const graph = compiler.buildGraph(reader, compiler.allHandlers(), this.#special, seeds, limit);
    const starts = graph.blocks.filter((block) => block.isEntry);
    if (starts.length === 0 || starts.length > MAX_ENTRIES) return undefined;
    const entries = starts.map(({ ops }): { uop: number } & Replaced => {
      const { uop } = ops[0] as Block["ops"][number];
      return { uop: uop.address, handler: uop.handler, word: uop.bytes.getInt32(REGION_WORD_OFFSET, true) };
    });
    for (const { ops } of graph.blocks)
      for (const { handler, uop } of ops) {
        if (!compiler.isCalled(handler)) continue;
        uop.copy = this.#cache.addUop(uop.bytes);
        if (uop.copy === 0) return undefined;
      }
    const uops = new Set(graph.blocks.flatMap(({ ops }) => ops.map(({ uop }) => uop.address)));
    const pages = new Map([...graph.pages].map(([offset, address]) => [address >>> 12, offset]));
    const state = { slot: -1, isDead: false, batch: undefined };
    const region: Region = { pages, seeds, replaces, uops, entries, ...state };
    for (const page of pages.keys()) {
      const list = this.#byPage.get(page);
      if (list === undefined) this.#byPage.set(page, [region]);
      else list.push(region);
    }
    this.#stats.compiled++;
    this.#stats.instructions += uops.size;
    const name = `region ${[...pages.keys()].map((page) => page.toString(16)).join()}`;
    return { source: { name, mode, graph, cpu: this.#options.cpu }, region };
  }

  #install(batch: RegionBatch, module: WebAssembly.Module): void {
    const { regions } = batch;
    if (regions.every(({ isDead }) => isDead)) {
      this.#budget.end(batch);
      return;
    }
    const exports = this.#hosts.map((host) => host.instantiate(module));
    regions.forEach((region, index) => {
      if (region.isDead) return;
      if (region.replaces !== undefined) this.#drop(region.replaces);
      region.replaces = undefined;
      region.batch = batch;
      region.slot = this.#freeSlots.pop() ?? this.#slots++;
      this.#hosts.forEach(({ table }, i) => {
        while (table.length <= region.slot) table.grow(Math.max(64, table.length));
        table.set(region.slot, exports[i]![this.#compiler!.regionName(index)]);
      });
      region.entries.forEach(({ uop, handler, word }, entry) => {
        // Two regions compiled at the same time may have an entry in common: it stays the first one's.
        if (this.#replaced.has(uop)) return;
        this.#replaced.set(uop, { handler, word });
        this.#view.setUint16(uop, this.#special.region, true);
        this.#view.setInt32(uop + REGION_WORD_OFFSET, entry | (region.slot << REGION_ENTRY_BITS), true);
      });
    });
    this.#budget.installed(batch);
    this.#makeRoom();
  }

  /** Ends a region: its entries are again what they were. */
  #drop(region: Region): void {
    if (region.isDead) return;
    region.isDead = true;
    region.replaces = undefined;
    for (const page of region.pages.keys()) {
      const list = this.#byPage.get(page)!;
      list.splice(list.indexOf(region), 1);
      if (list.length === 0) this.#byPage.delete(page);
    }
    if (region.slot < 0) return;
    this.#stats.dropped++;
    for (const { uop, handler, word } of region.entries) {
      // Not its own, or overwritten by now.
      if (this.#view.getInt32(uop + REGION_WORD_OFFSET, true) >>> REGION_ENTRY_BITS !== region.slot) continue;
      if (this.#view.getUint16(uop, true) !== this.#special.region) continue;
      this.#view.setUint16(uop, handler, true);
      this.#view.setInt32(uop + REGION_WORD_OFFSET, word, true);
      this.#replaced.delete(uop);
    }
    for (const { table } of this.#hosts) table.set(region.slot, null);
    this.#freeSlots.push(region.slot);
    const { batch } = region;
    if (batch?.regions.every(({ isDead }) => isDead)) this.#budget.end(batch);
  }

  #dropAll(): void {
    for (const list of [...this.#byPage.values()]) for (const region of [...list]) this.#drop(region);
  }

  forgotten(page: number, first: number, last: number): void {
    for (const region of [...(this.#byPage.get(page) ?? [])]) {
      let isHit = false;
      for (let uop = first; uop < last && !isHit; uop += UOP_BYTES) isHit = region.uops.has(uop);
      if (!isHit) continue;
      this.#drop(region);
      for (const host of this.#hosts) host.setStale();
    }
  }

  flushed(): void {
    this.#dropAll();
    this.#hot.clear();
    this.#missed.clear();
    for (const host of this.#hosts) host.setStale();
  }
}
