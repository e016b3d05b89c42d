/** Which interrupt controller's input, or which message, a global system interrupt leads to (api.rst sec. 4.52). */
import { IrqChipId, RoutingType } from "./abi.ts";
import type { Native } from "./native.ts";
import { Size, Struct } from "./structs.ts";

/** Inputs of the I/O APIC. */
export const IOAPIC_PINS = 24;
const PIC_PINS = 8;
/** The 8259s' cascade. */
const CASCADE = 2;
/** The timer's input at the I/O APIC; 0 at the 8259s. */
const TIMER_PIN = 2;

type Route =
  | { readonly gsi: number; readonly chip: number; readonly pin: number }
  | { readonly gsi: number; readonly address: number; readonly data: number };

/** Routes of KVM's 8259s and I/O APIC as a PC has them wired: the timer's GSI 0 is input 2 of the I/O APIC. */
function chipRoutes(): Route[] {
  const routes: Route[] = [];
  for (let gsi = 0; gsi < IOAPIC_PINS; gsi++) {
    if (gsi === CASCADE) continue;
    if (gsi < PIC_PINS) routes.push({ gsi, chip: IrqChipId.PIC_MASTER, pin: gsi });
    else if (gsi < 2 * PIC_PINS) routes.push({ gsi, chip: IrqChipId.PIC_SLAVE, pin: gsi - PIC_PINS });
    routes.push({ gsi, chip: IrqChipId.IOAPIC, pin: gsi === 0 ? TIMER_PIN : gsi });
  }
  return routes;
}

/** A VM's routing table; it is handed to the kernel whole after each change. */
export class IrqRoutes {
  readonly #native: Native;
  readonly #vmFd: number;
  readonly #limit: number;
  readonly #chips: readonly Route[];
  readonly #messages = new Map<number, Route>();

  /**
   * @param limit KVM_CAP_IRQ_ROUTING: how many routes the kernel takes.
   * @param hasChips whether 8259s and I/O APIC are KVM's.
   */
  constructor(native: Native, vmFd: number, limit: number, hasChips: boolean) {
    this.#native = native;
    this.#vmFd = vmFd;
    this.#limit = limit;
    this.#chips = hasChips ? chipRoutes() : [];
  }

  /** Makes a message the target of `gsi`, in place of what it was. @throws KvmError */
  setMessage(gsi: number, address: number, data: number): void {
    this.#messages.set(gsi, { gsi, address, data });
  }

  removeMessage(gsi: number): void {
    this.#messages.delete(gsi);
  }

  /** A global system interrupt without a route. @throws RangeError where there is none. */
  freeGsi(): number {
    for (let gsi = IOAPIC_PINS; gsi < this.#limit; gsi++) if (!this.#messages.has(gsi)) return gsi;
    throw new RangeError(`gsi: all ${this.#limit} routes of this kernel are used`);
  }

  /** Hands the table to the kernel. @throws KvmError */
  commit(): void {
    const routes = [...this.#chips, ...this.#messages.values()];
    const table = new Struct(Size.IRQ_ROUTING_HEADER + routes.length * Size.IRQ_ROUTING_ENTRY);
    table.setU32(0, routes.length);
    routes.forEach((route, i) => {
      const at = Size.IRQ_ROUTING_HEADER + i * Size.IRQ_ROUTING_ENTRY;
      table.setU32(at, route.gsi);
      if ("chip" in route) {
        table.setU32(at + 4, RoutingType.IRQCHIP);
        table.setU32(at + 16, route.chip);
        table.setU32(at + 20, route.pin);
      } else {
        table.setU32(at + 4, RoutingType.MSI);
        table.setU32(at + 16, route.address);
        table.setU32(at + 24, route.data);
      }
    });
    this.#native.ioctlStruct(this.#vmFd, "KVM_SET_GSI_ROUTING", table);
  }
}
