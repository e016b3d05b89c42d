import { Cpu } from "../../cpu/layout.ts";
import { get64, set64, Vector } from "../../cpu/state.ts";
import type { I32 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { insn } from "../registry.ts";

/** Debug registers (SDM Vol. 3B sec. 18.2; Vol. 2 MOV DR). */

const DR6 = Cpu.DR + 8 * 6;
const DR7 = Cpu.DR + 8 * 7;

/** DR4 and DR5 mean DR6 and DR7, unless CR4.DE makes them undefined. Gives the register's number. */
function registerNumber(c: Insn): I32 {
  const number = c.field("a");
  const alias = number.and(6).eq(4);
  c.faultIf(number.gtU(7).or(alias.and(get64(c, Cpu.CR4).bit(3))), Vector.UD);
  c.requireCpl0();
  // General detect: a fault, with BD telling the handler why (DR7.GD itself goes off on delivery).
  c.unlikely(get64(c, DR7).bit(13), () => {
    set64(c, DR6, get64(c, DR6).or(0x2000));
    c.fault(Vector.DB);
  });
  return c.let(alias.select(number.or(2), number));
}

insn("MOV", "0F 21", "Ry=,D", { size64: "f64" }, (c) => {
  const number = registerNumber(c);
  c.write(0, c.load("i64.load", c.cpu.add(number.shl(3)), Cpu.DR));
});

insn("MOV", "0F 23", "D,Ry", { size64: "f64", ends: true }, (c) => {
  const number = registerNumber(c);
  const value = c.let(c.read(1));
  c.faultIf(number.geU(6).and(value.shrU(32).ne(0)), Vector.GP);
  // Bits that read as ones and as zeros whatever is written (SDM Vol. 3B fig. 18-1).
  const dr6 = value.and(0xe00fn).or(0xffff_0ff0n);
  const dr7 = value.and(0xffff_23ffn).or(0x400);
  const stored = number.eq(6).select(dr6, number.eq(7).select(dr7, value));
  c.store("i64.store", c.cpu.add(number.shl(3)), stored, Cpu.DR);
  c.resync();
});
