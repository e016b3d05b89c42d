import { Cpu, Mode } from "../../cpu/layout.ts";
import { get32 } from "../../cpu/state.ts";
import { avx } from "../sse-common.ts";

/** VZEROUPPER and VZEROALL: of the eight registers that there are outside 64-bit mode, or of all sixteen. */
for (const [name, l] of [
  ["VZEROUPPER", 0],
  ["VZEROALL", 1],
] as const)
  avx(name, "NP 0F 77", "", { feature: "avx", vex: { l } }, (c) => {
    const clear = (first: number, count: number): void => {
      for (let i = first; i < first + count; i++) {
        c.store("v128.store", c.cpu, c.v128(0n), Cpu.YMM_HIGH + 16 * i);
        if (l === 1) c.store("v128.store", c.cpu, c.v128(0n), Cpu.XMM + 16 * i);
      }
    };
    clear(0, 8);
    c.if(get32(c, Cpu.MODE).and(Mode.CODE_MASK).eq(Mode.CODE64), () => clear(8, 8));
  });
