import { Cpu } from "../cpu/layout.ts";
import type { Stmt } from "../ir/ir.ts";
import type { RegionGraph } from "./graph.ts";
import { HOMES, REG_TYPES, Reg } from "./layout.ts";
import { cpuLoad, cpuStore, local, op } from "./nodes.ts";

/** What the blocks of one region have in common. */
export class RegionFacts {
  readonly mode: number;
  readonly graph: RegionGraph;
  /** Locals that are read or written, and those that are written. */
  readonly used = new Set<number>();
  readonly written = new Set<number>();
  temps = REG_TYPES.length;
  /** Lists to be filled with write-backs and reloads once all blocks are known. */
  readonly #saves: { readonly list: Stmt[]; readonly gprs: boolean; readonly flags: boolean }[] = [];
  readonly #loads: { readonly list: Stmt[]; readonly gprs: boolean; readonly flags: boolean }[] = [];

  constructor(mode: number, graph: RegionGraph) {
    this.mode = mode;
    this.graph = graph;
  }

  save(gprs: boolean, flags: boolean): Stmt {
    const list: Stmt[] = [];
    this.#saves.push({ list, gprs, flags });
    return { s: "block", label: { kind: "block" }, body: list };
  }

  load(gprs: boolean, flags: boolean): Stmt {
    const list: Stmt[] = [];
    this.#loads.push({ list, gprs, flags });
    return { s: "block", label: { kind: "block" }, body: list };
  }

  /** Call once, when all blocks are specialized. */
  finish(): { readonly prologue: Stmt[]; readonly epilogue: Stmt[] } {
    const isFlag = (reg: number): boolean => reg < Reg.GPR;
    const stores = (gprs: boolean, flags: boolean): Stmt[] =>
      [...HOMES]
        .filter(([reg]) => this.written.has(reg) && (isFlag(reg) ? flags : gprs))
        .map(([reg, home]) => cpuStore(reg, home));
    const loads = (gprs: boolean, flags: boolean): Stmt[] =>
      [...HOMES]
        .filter(([reg]) => this.used.has(reg) && (isFlag(reg) ? flags : gprs))
        .map(([reg, home]) => cpuLoad(reg, home));
    for (const { list, gprs, flags } of this.#saves) list.push(...stores(gprs, flags));
    for (const { list, gprs, flags } of this.#loads) list.push(...loads(gprs, flags));
    return {
      prologue: [cpuLoad(Reg.RIP_BASE, Cpu.RIP_BASE), cpuLoad(Reg.TLB, Cpu.TLB), ...loads(true, true)],
      epilogue: [
        ...stores(true, true),
        cpuStore(Reg.UOP, Cpu.REGION_UOP),
        {
          s: "if",
          cond: op("i32", "i32.eqz", local(Reg.UOP)),
          yes: [cpuStore(Reg.RIP, Cpu.RIP)],
          no: [],
          likely: true,
        },
      ],
    };
  }
}
