const PAGE_BYTES = 4096;
const MODE_BITS = 5;
/** Each time that a page is compiled it takes so many times more samples until the next. */
const BACKOFF = 1.5;
/** Places that are remembered in all pages together, some 100 bytes each; the page that was sampled first goes first. */
const MAX_SEEDS = 1 << 16;

/** A page's code in one mode, as far as it is known to be hot. */
export interface HotPage {
  /** Arena page number. */
  readonly page: number;
  /** As `Cpu.MODE`. */
  readonly mode: number;
  /** Where slices ended since it was compiled last: offset in the page → how often. */
  readonly seeds: ReadonlyMap<number, number>;
}

interface Entry extends HotPage {
  readonly seeds: Map<number, number>;
  samples: number;
  threshold: number;
}

/** Where slices ended, by page and mode: the more often, the hotter. */
export class HotPages {
  readonly #hotSamples: number;
  readonly #pages = new Map<number, Entry>();
  #seeds = 0;

  /** `hotSamples`: samples of a page until it is hot for the first time. */
  constructor(hotSamples: number) {
    this.#hotSamples = hotSamples;
  }

  /** Notes that a slice ended at arena address `host`; gives its page if that is hot. */
  sample(host: number, mode: number): HotPage | undefined {
    const entry = this.#entry(host >>> 12, mode);
    const pos = host & (PAGE_BYTES - 1);
    const count = entry.seeds.get(pos) ?? 0;
    if (count === 0) this.#seeds++;
    entry.seeds.set(pos, count + 1);
    return ++entry.samples < entry.threshold ? undefined : entry;
  }

  /** The page's seeds, the hottest first; it begins anew, and will take longer. */
  take({ page, mode }: HotPage): number[] {
    const entry = this.#entry(page, mode);
    const seeds = [...entry.seeds].sort(([, a], [, b]) => b - a).map(([pos]) => pos);
    this.#seeds -= seeds.length;
    entry.seeds.clear();
    entry.samples = 0;
    entry.threshold *= BACKOFF;
    return seeds;
  }

  clear(): void {
    this.#pages.clear();
    this.#seeds = 0;
  }

  #entry(page: number, mode: number): Entry {
    const key = page * (1 << MODE_BITS) + mode;
    let entry = this.#pages.get(key);
    if (entry === undefined) {
      entry = { page, mode, seeds: new Map(), samples: 0, threshold: this.#hotSamples };
      this.#forgetOldest();
      this.#pages.set(key, entry);
    }
    return entry;
  }

  #forgetOldest(): void {
    for (const [key, { seeds }] of this.#pages) {
      if (this.#seeds + this.#pages.size < MAX_SEEDS) return;
      this.#seeds -= seeds.size;
      this.#pages.delete(key);
    }
  }
}
