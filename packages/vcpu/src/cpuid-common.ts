/** What several engines can offer alike, and clocks in fractions that guests can work with. */
import type { CpuidResult } from "./cpuid.ts";
import { CPUID_FEATURE_WORDS } from "./cpuid-features.ts";
import type { CpuidTable } from "./engine.ts";

const EMPTY: Readonly<CpuidResult> = { eax: 0, ebx: 0, ecx: 0, edx: 0 };
/** A clock that runs wrong by this much loses 0.2 s a day. */
const MAX_RATIO_ERROR = 2e-6;

/** What all of the tables can back. */
export function commonCpuid(tables: readonly CpuidTable[]): CpuidTable {
  const [first, ...others] = tables;
  if (others.length === 0) return first!;
  const flags = new Set(
    CPUID_FEATURE_WORDS.map(([leaf, subleaf, register]) => wordKey(leaf, subleaf, register)),
  );
  return {
    query: (index, leaf, subleaf) => {
      const result = { ...first!.query(index, leaf, subleaf) };
      for (const table of others) {
        const other = table.query(index, leaf, subleaf);
        if (leaf === 0x8000_0008) result.eax = fewestBits(result.eax, other.eax);
        else if (leaf === 0xd && subleaf === 0) result.eax = (result.eax & other.eax) >>> 0;
        // Another hypervisor's leaves are there where all have the same.
        else if (leaf === 0x4000_0000 && result.ebx !== other.ebx) return EMPTY;
        for (const register of ["eax", "ebx", "ecx", "edx"] as const) {
          if (!flags.has(wordKey(leaf, subleaf, register)) && leaf !== 0x4000_0001) continue;
          result[register] = (result[register] & other[register]) >>> 0;
        }
      }
      return result;
    },
  };
}

/** Leaf 0x80000008 EAX: physical and virtual address bits. An engine that says nothing has the least. */
function fewestBits(one: number, other: number): number {
  const least = (shift: number, fallback: number): number =>
    Math.min((one >>> shift) & 0xff || fallback, (other >>> shift) & 0xff || fallback);
  return least(0, 36) | (least(8, 48) << 8);
}

/** The word of flags that a register is. */
function wordKey(leaf: number, subleaf: number, register: string): string {
  return `${leaf}.${subleaf}.${register}`;
}

/**
 * Leaf 0x15's ratio of the TSC's rate to the crystal's, or [0, 0] where no fraction is close enough: the guest then has to
 * measure.
 *
 * Linux works out kHz of the crystal times numerator in 32 bits (native_calibrate_tsc), so a numerator may not be large:
 * the best fraction whose numerator is not, by continued fractions and what lies between two of their convergents.
 */
export function clockRatio(tscHz: number, apicHz: number): readonly [numerator: number, denominator: number] {
  const limit = Math.floor(0xffff_ffff / Math.max(1, Math.floor(apicHz / 1000)));
  let [lastN, lastD, n, d] = [0, 1, 1, 0];
  let [rest, divisor] = [tscHz, apicHz];
  let best: readonly [number, number] = [0, 0];
  const error = ([p, q]: readonly [number, number]): number => Math.abs((p * apicHz) / q - tscHz) / tscHz;
  while (divisor !== 0) {
    const whole = Math.floor(rest / divisor);
    const fits = Math.min(whole, Math.floor((limit - lastN) / n));
    const next = [fits * n + lastN, fits * d + lastD] as const;
    if (fits > 0 && next[1] > 0 && !(error(best) <= error(next))) best = next;
    if (fits < whole) break;
    [lastN, lastD, n, d] = [n, d, ...next];
    [rest, divisor] = [divisor, rest % divisor];
  }
  return error(best) <= MAX_RATIO_ERROR ? best : [0, 0];
}
