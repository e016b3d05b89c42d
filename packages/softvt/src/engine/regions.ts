import { UOP_BYTES } from "../cpu/layout.ts";
import type { DecodeTable } from "../isa/table.ts";
import type { Block, CodeReader, RegionSource, Uop } from "../region/index.ts";
import type { CodeCache, CodeCacheObserver } from "./code-cache.ts";
import { REGION_ENTRY_BITS, REGION_WORD_OFFSET } from "./names.ts";

type Compiler = typeof import("../region/index.ts");

const PAGE_BYTES = 4096;
const MODE_BITS = 5;
const MAX_ENTRIES = 1 << REGION_ENTRY_BITS;
/** Each time that a page is compiled it takes so many times more samples until the next. */
const BACKOFF = 1.5;
/** Ends of slices that find the same call out of a region to have missed, until its target is compiled. */
const MISSED_SAMPLES = 48;
/** Such a region is about the function alone: statements of its descriptions at most. */
const MISSED_STATEMENTS = 1000;
/** Regions made at once of one page. */
const MAX_REGIONS = 4;

/** When code is compiled. */
export interface RegionOptions {
  /**
   * Ends of slices that fall into a page before its code is compiled; 0: everything, as soon as it is decoded, and
   * before it runs (for tests).
   */
  readonly hotSamples: number;
  /** Address of the vCPU block, where there is but one vCPU. */
  readonly cpu?: number | undefined;
}

/** A place in code. */
export interface CodePlace {
  /** Its arena address. */
  readonly host: number;
  /** As `Cpu.MODE`. */
  readonly mode: number;
  /**
   * Arena address of the page whose linear address is `offset` (a multiple of 4096) from that of the place's own page;
   * 0 where that is not known.
   */
  pageAt(offset: number): number;
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
  /** Regions that could not be compiled. */
  failed: number;
  instructions: number;
  /** Bytes of WebAssembly. */
  bytes: number;
}

/** A page's code in one mode, as far as it is known to be hot. */
interface HotPage {
  readonly page: number;
  readonly mode: number;
  /** Where slices ended since it was compiled last: offset in the page → how often. */
  seeds: Map<number, number>;
  samples: number;
  threshold: number;
}

interface Region {
  /** Its pages: arena page number → offset from its home. */
  readonly pages: ReadonlyMap<number, number>;
  /** Offsets from its home page that it was grown from. */
  readonly seeds: readonly number[];
  /** What it takes the place of. */
  readonly replaces: Region | undefined;
  /** Micro-ops of its instructions. */
  readonly uops: ReadonlySet<number>;
  readonly entries: readonly ({ readonly uop: number } & Replaced)[];
  /** Its place in the tables; -1 until it is installed. */
  slot: number;
  isDead: boolean;
}

interface Prepared {
  readonly source: RegionSource;
  readonly region: Region;
}

/** What stood at a micro-op before it became a region's entry. */
interface Replaced {
  readonly handler: number;
  readonly word: number;
}

/**
 * Compiled regions: which pages are hot, their compilation, and their place in the decoded code. A region begins at
 * micro-ops that were replaced by `region` ones; when its code changes they become again what they were.
 */
export class Regions implements CodeCacheObserver {
  readonly stats: RegionStats = { compiled: 0, dropped: 0, failed: 0, instructions: 0, bytes: 0 };

  readonly #cache: CodeCache;
  readonly #special: DecodeTable["special"];
  readonly #options: RegionOptions;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #hosts: RegionHost[] = [];
  readonly #hot = new Map<number, HotPage>();
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
    this.#compiler = compiler;
    this.#bytes = new Uint8Array(buffer);
    this.#view = new DataView(buffer);
    cache.observer = this;
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
    if (this.#options.hotSamples === 0) return;
    const { host, mode } = place;
    const uop = this.#cache.find(host, mode);
    if (uop === 0 || this.#replaced.has(uop)) return;
    const hot = this.#hotPage(host, mode);
    const pos = host & (PAGE_BYTES - 1);
    hot.seeds.set(pos, (hot.seeds.get(pos) ?? 0) + 1);
    if (++hot.samples < hot.threshold) return;
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
    if (uop === 0 || this.#replaced.has(uop)) return;
    // Under way already.
    const here = this.#byPage.get(host >>> 12) ?? [];
    if (here.some(({ slot, entries }) => slot < 0 && entries.some((entry) => entry.uop === uop))) return;
    const count = (this.#missed.get(uop) ?? 0) + 1;
    this.#missed.set(uop, count);
    if (count < MISSED_SAMPLES || this.#compiler === undefined) return;
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
    const hot = this.#hotPage(place.host, place.mode);
    hot.seeds.set(place.host & (PAGE_BYTES - 1), 1);
    const made = this.#prepare(hot, place);
    if (made.length === 0) return;
    const bytes = this.#compiler.compileRegions(made.map(({ source }) => source));
    this.#install(
      made.map(({ region }) => region),
      new WebAssembly.Module(bytes),
    );
  }

  #hotPage(host: number, mode: number): HotPage {
    const page = host >>> 12;
    const key = page * (1 << MODE_BITS) + mode;
    let hot = this.#hot.get(key);
    if (hot === undefined) {
      const threshold = this.#options.hotSamples;
      hot = { page, mode, seeds: new Map(), samples: 0, threshold };
      this.#hot.set(key, hot);
    }
    return hot;
  }

  #compileQueue(): void {
    if (this.#isClosed) return;
    const made = this.#queue.filter(({ region }) => !region.isDead);
    this.#queue = [];
    if (made.length === 0) return;
    const regions = made.map(({ region }) => region);
    // What cannot be compiled, for want of memory or by a mistake of ours, goes on being interpreted.
    const giveUp = (): void => {
      this.stats.failed += regions.length;
      for (const region of regions) this.#drop(region);
    };
    let bytes: Uint8Array<ArrayBuffer>;
    try {
      bytes = this.#compiler!.compileRegions(made.map(({ source }) => source));
    } catch {
      giveUp();
      return;
    }
    this.stats.bytes += bytes.length;
    WebAssembly.compile(bytes).then((module) => {
      if (!this.#isClosed) this.#install(regions, module);
    }, giveUp);
  }

  /** What is to be compiled of a hot page: regions around where slices ended, the hottest place first. */
  #prepare(hot: HotPage, { pageAt }: CodePlace): Prepared[] {
    const seeds = [...hot.seeds].sort(([, a], [, b]) => b - a).map(([pos]) => pos);
    hot.seeds = new Map();
    hot.samples = 0;
    hot.threshold *= BACKOFF;
    const made: Prepared[] = [];
    const uopAt = (pos: number): number => this.#cache.find(hot.page * PAGE_BYTES + pos, hot.mode);
    for (const seed of seeds) {
      const uop = uopAt(seed);
      if (uop === 0 || this.#replaced.has(uop) || made.some(({ region }) => region.uops.has(uop))) continue;
      // A place within a region that was not an entry becomes one, and so do the others there.
      const replaces = this.#byPage.get(hot.page)?.find((region) => region.uops.has(uop));
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
    const reader = this.#reader(mode, pageAt);
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
    const region: Region = { pages, seeds, replaces, uops, entries, slot: -1, isDead: false };
    for (const page of pages.keys()) {
      const list = this.#byPage.get(page);
      if (list === undefined) this.#byPage.set(page, [region]);
      else list.push(region);
    }
    this.stats.compiled++;
    this.stats.instructions += uops.size;
    const name = `region ${[...pages.keys()].map((page) => page.toString(16)).join()}`;
    return { source: { name, mode, graph, cpu: this.#options.cpu }, region };
  }

  /** Decoded code around a place as it was before regions put their entries in it. */
  #reader(mode: number, pageAt: CodePlace["pageAt"]): CodeReader {
    const pages = new Map<number, number>();
    const pageAddress = (page: number): number => {
      let address = pages.get(page);
      if (address === undefined) {
        address = pageAt(page);
        pages.set(page, address);
      }
      return address;
    };
    const addressOf = (pos: number): number => {
      const page = pageAddress(pos & -PAGE_BYTES);
      return page === 0 ? 0 : page + (pos & (PAGE_BYTES - 1));
    };
    const uop = (address: number): Uop => {
      const bytes = this.#bytes.slice(address, address + UOP_BYTES);
      const view = new DataView(bytes.buffer);
      const replaced = this.#replaced.get(address);
      if (replaced !== undefined) {
        view.setUint16(0, replaced.handler, true);
        view.setInt32(REGION_WORD_OFFSET, replaced.word, true);
      }
      return { address, handler: view.getUint16(0, true), copy: 0, bytes: view };
    };
    return {
      uop,
      uopAt: (pos) => {
        const host = addressOf(pos);
        const address = host === 0 ? 0 : this.#cache.find(host, mode);
        return address === 0 ? undefined : uop(address);
      },
      isLookedUp: (pos) => {
        const host = addressOf(pos);
        return host !== 0 && this.#cache.isLookedUp(host, mode);
      },
      pageAddress,
    };
  }

  #install(regions: readonly Region[], module: WebAssembly.Module): void {
    if (regions.every(({ isDead }) => isDead)) return;
    const exports = this.#hosts.map((host) => host.instantiate(module));
    regions.forEach((region, index) => {
      if (region.isDead) return;
      if (region.replaces !== undefined) this.#drop(region.replaces);
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
  }

  /** Ends a region: its entries are again what they were. */
  #drop(region: Region): void {
    if (region.isDead) return;
    region.isDead = true;
    for (const page of region.pages.keys()) {
      const list = this.#byPage.get(page)!;
      list.splice(list.indexOf(region), 1);
      if (list.length === 0) this.#byPage.delete(page);
    }
    if (region.slot < 0) return;
    this.stats.dropped++;
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
