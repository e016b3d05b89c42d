import { deflateRawSync } from "node:zlib";
import { expect, it } from "vitest";
import { inflateBase64, inflateByStream } from "../src/engine/inflate.ts";
import { compileEngine } from "../src/engine/module.ts";
import {
  EngineMismatchError,
  LAYOUT_SECTION,
  layoutFingerprint,
  TABLE_SECTION,
} from "../src/engine/sections.ts";
import { buildHandlers } from "../src/isa/handlers.ts";
import "../src/isa/index.ts";
import { formIndex, packTable, unpackTable } from "../src/isa/table.ts";
import { ModuleBuilder } from "../src/wasm/encoder.ts";

const HANDLERS = buildHandlers();

function moduleWith(sections: Record<string, string>): Uint8Array<ArrayBuffer> {
  const module = new ModuleBuilder();
  for (const [name, text] of Object.entries(sections)) module.customSection(name, text);
  return module.bytes();
}

it("decodes by the table that the module brings", async () => {
  const bytes = moduleWith({ [LAYOUT_SECTION]: layoutFingerprint(), [TABLE_SECTION]: packTable(HANDLERS) });
  const { table } = await compileEngine(bytes);
  expect(table.special).toEqual(HANDLERS.special);
  expect(table.forms.size).toBe(HANDLERS.forms.size);
  expect(table.vexForms().size).toBe(HANDLERS.vexForms().size);
});

it.each([
  ["another layout", { [LAYOUT_SECTION]: "00000000", [TABLE_SECTION]: packTable(HANDLERS) }],
  ["no layout", { [TABLE_SECTION]: packTable(HANDLERS) }],
  ["no table", { [LAYOUT_SECTION]: layoutFingerprint() }],
])("refuses a module of %s", async (_what, sections) => {
  const error = await compileEngine(moduleWith(sections as Record<string, string>)).catch((e: unknown) => e);
  expect(error).toBeInstanceOf(EngineMismatchError);
  expect((error as EngineMismatchError).code).toBe("ENGINE_MISMATCH");
});

it("packs every instruction, form and handler of the table", () => {
  const table = unpackTable(packTable(HANDLERS));
  const unpacked = [...table.forms, ...table.vexForms()];
  [...HANDLERS.forms, ...HANDLERS.vexForms()].forEach(([spec, forms], i) => {
    const [coding, list] = unpacked[i]!;
    const { feature } = spec;
    expect(spec).toEqual({
      ...coding,
      describe: expect.any(Function),
      ...(feature !== undefined && { feature }),
    });
    expect(list.length).toBe(forms.length);
    for (const form of forms) {
      if (form === undefined) continue;
      const other = list[formIndex(form.opsize, form.memory)]!;
      expect(other.spec).toBe(coding);
      expect({ ...other, spec }).toEqual(form);
    }
  });
});

it("inflates what a build left, and notices what is missing", async () => {
  const bytes = Uint8Array.from({ length: 70_000 }, (_, i) => (i * i) >> 7);
  const base64 = deflateRawSync(bytes).toString("base64");
  expect(Buffer.compare(await inflateBase64(base64, bytes.length), bytes)).toBe(0);
  expect(Buffer.compare(await inflateByStream(base64), bytes)).toBe(0);
  await expect(inflateByStream(base64.slice(0, 400))).rejects.toThrow();
  await expect(inflateBase64(base64, bytes.length + 1)).rejects.toThrow(RangeError);
  await expect(inflateBase64(base64, bytes.length - 1)).rejects.toThrow(RangeError);
  await expect(inflateBase64(base64.slice(0, 400), bytes.length)).rejects.toThrow();
});
