import * as layout from "../cpu/layout.ts";
import { Slot } from "../cpu/slots.ts";
import { UOP_FIELDS } from "../cpu/uop.ts";
import type { HandlerTable } from "../isa/handlers.ts";

/** Name of the module's custom section that holds `fingerprint()` of what the module was generated from. */
export const FINGERPRINT_SECTION = "skep.fingerprint";

/**
 * What the module and the TypeScript beside it must agree upon, as 16 hexadecimal digits: which handler has
 * which number, what the decoder writes into its micro-ops, and where everything lies in the arena. It tells
 * versions apart; it is no protection from somebody who forges one.
 */
export function fingerprint(handlers: HandlerTable): string {
  const hash = new Hash();
  for (const [name, value] of Object.entries(layout)) {
    if (typeof value === "function") continue;
    hash.text(name);
    if (typeof value === "object") hash.fields(value);
    else hash.text(String(value));
  }
  hash.fields(Slot);
  for (const { offset, load } of Object.values(UOP_FIELDS)) {
    hash.number(offset);
    hash.text(load);
  }
  hash.fields(handlers.special);
  hash.number(handlers.hotCount);
  for (const { name } of handlers.list) hash.text(name);
  for (const [spec, forms] of handlers.forms) {
    hash.text(spec.operandText);
    for (const form of forms) {
      if (form === undefined) continue;
      for (const { wanted, dead } of Object.values(form.handlers)) {
        hash.number(wanted);
        hash.number(dead);
      }
      for (const handler of form.fused ?? []) hash.number(handler);
    }
  }
  return hash.toString();
}

/** Two 32-bit FNV-1a style hashes with different multipliers. */
class Hash {
  #a = 0x811c9dc5 | 0;
  #b = 0x9e3779b9 | 0;

  number(value: number): void {
    this.#a = Math.imul(this.#a ^ value, 0x01000193);
    this.#b = Math.imul(this.#b ^ value ^ (this.#b >>> 15), 0x85ebca6b);
  }

  text(text: string): void {
    this.number(text.length);
    for (let i = 0; i < text.length; i++) this.number(text.charCodeAt(i));
  }

  fields(record: Readonly<Record<string, number | bigint>>): void {
    for (const [name, value] of Object.entries(record)) {
      this.text(name);
      this.text(String(value));
    }
  }

  toString(): string {
    return [this.#a, this.#b].map((half) => (half >>> 0).toString(16).padStart(8, "0")).join("");
  }
}
