/** Carries interrupt messages to the local APICs: who they are for, and who of several takes one. */
import { type ApicMessage, DeliveryMode, isAddressed, isBroadcast } from "./apic-message.ts";
import type { LocalApic } from "./lapic.ts";
import { Shorthand } from "./lapic-registers.ts";

export class ApicBus {
  /** The APIC with ID n at index n. */
  readonly #apics: readonly LocalApic[];
  /** Where the search for the least busy APIC starts: it turns, so that equals share the work. */
  #turn = 0;

  constructor(apics: readonly LocalApic[]) {
    this.#apics = apics;
  }

  /** Delivers a message to every APIC that it addresses, or to one of them; false where none took it. */
  deliver(message: ApicMessage): boolean {
    if (!message.logical && !isBroadcast(message)) {
      // One processor: lowest priority has nothing to choose.
      const apic = this.#apics[message.destination];
      return apic?.accept(message.mode, message.vector, message.level) ?? false;
    }
    return this.#deliverTo(message, (apic) => isAddressed(message, apic));
  }

  /** Delivers an IPI of APIC `sender`. */
  ipi(sender: number, message: ApicMessage, shorthand: number): void {
    if (shorthand === Shorthand.NONE) this.deliver(message);
    else this.#deliverTo(message, (apic) => shorthand === Shorthand.ALL || apic.id !== sender);
  }

  /** For saving: the arbitration's state. */
  get turn(): number {
    return this.#turn;
  }

  set turn(index: number) {
    this.#turn = index;
  }

  #deliverTo(message: ApicMessage, addressed: (apic: LocalApic) => boolean): boolean {
    if (message.mode === DeliveryMode.LOWEST_PRIORITY) {
      const apic = this.#leastBusy(addressed);
      return apic?.accept(message.mode, message.vector, message.level) ?? false;
    }
    let taken = false;
    for (const apic of this.#apics)
      if (addressed(apic) && apic.accept(message.mode, message.vector, message.level)) taken = true;
    return taken;
  }

  /** Of those addressed that take interrupts, the one with the lowest processor priority (sec. 11.6.2.4). */
  #leastBusy(addressed: (apic: LocalApic) => boolean): LocalApic | undefined {
    const count = this.#apics.length;
    let best: LocalApic | undefined;
    for (let step = 0; step < count; step++) {
      const apic = this.#apics[(this.#turn + step) % count]!;
      if (!apic.accepting || !addressed(apic)) continue;
      if (best === undefined || apic.ppr < best.ppr) best = apic;
    }
    if (best !== undefined) this.#turn = (best.id + 1) % count;
    return best;
  }
}
