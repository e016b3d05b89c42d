import { expect, it } from "vitest";
import { Cpu } from "../src/cpu/layout.ts";
import { ARITHMETIC } from "../src/fpu/arithmetic.ts";
import { compile, CPU_ADDRESS } from "./support/module.ts";
it("adds", () => {
  const m = compile([...Object.values(ARITHMETIC.f64), ...Object.values(ARITHMETIC.f32)]);
  const view = new DataView(new ArrayBuffer(8));
  const bits = (x: number) => (view.setFloat64(0, x), view.getBigInt64(0));
  const num = (b: bigint) => (view.setBigInt64(0, b), view.getFloat64(0));
  for (let i = 0; i < 200000; i++) {
    const a = (Math.random() - 0.5) * 2 ** (Math.random() * 60), b = (Math.random() - 0.5) * 2 ** (Math.random() * 60);
    expect(num(m.call.add_f64!(bits(a), bits(b), 0x1f80))).toBe(a + b);
    expect(num(m.call.subtract_f64!(bits(a), bits(b), 0x1f80))).toBe(a - b);
    expect(num(m.call.multiply_f64!(bits(a), bits(b), 0x1f80))).toBe(a * b);
    expect(num(m.call.divide_f64!(bits(a), bits(b), 0x1f80))).toBe(a / b);
    if (a>0) expect(num(m.call.sqrt_f64!(bits(a), 0x1f80))).toBe(Math.sqrt(a));
  }
  const t0 = performance.now();
  for (const op of ["add","multiply","divide"]) { const f = m.call[op+"_f64"]!; const t=performance.now(); for (let i=0;i<1e6;i++) f(0x3ff1234567891234n, 0x4001234567891234n, 0x1f80); console.log(op, performance.now()-t); }
  { const f = m.call["sqrt_f64"]!; const t=performance.now(); for (let i=0;i<1e6;i++) f(0x3ff1234567891234n, 0x1f80); console.log("sqrt", performance.now()-t); }
});
