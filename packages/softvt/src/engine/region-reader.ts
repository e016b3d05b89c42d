import { UOP_BYTES } from "../cpu/layout.ts";
import type { CodeReader, Uop } from "../region/index.ts";
import type { CodeCache } from "./code-cache.ts";
import { REGION_WORD_OFFSET } from "./names.ts";

const PAGE_BYTES = 4096;

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

/** What stood at a micro-op before it became a region's entry. */
export interface Replaced {
  readonly handler: number;
  readonly word: number;
}

/** Where decoded code is: the cache, the arena, and what regions put their entries in the place of. */
export interface DecodedCode {
  readonly cache: CodeCache;
  readonly bytes: Uint8Array;
  readonly replaced: ReadonlyMap<number, Replaced>;
}

/** Decoded code around a place as it was before regions put their entries in it. */
export function readCode(
  { cache, bytes: arena, replaced }: DecodedCode,
  mode: number,
  pageAt: CodePlace["pageAt"],
): CodeReader {
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
    const bytes = arena.slice(address, address + UOP_BYTES);
    const view = new DataView(bytes.buffer);
    const before = replaced.get(address);
    if (before !== undefined) {
      view.setUint16(0, before.handler, true);
      view.setInt32(REGION_WORD_OFFSET, before.word, true);
    }
    return { address, handler: view.getUint16(0, true), copy: 0, bytes: view };
  };
  return {
    uop,
    uopAt: (pos) => {
      const host = addressOf(pos);
      const address = host === 0 ? 0 : cache.find(host, mode);
      return address === 0 ? undefined : uop(address);
    },
    isLookedUp: (pos) => {
      const host = addressOf(pos);
      return host !== 0 && cache.isLookedUp(host, mode);
    },
    pageAddress,
  };
}
