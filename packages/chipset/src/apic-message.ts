/**
 * Interrupt messages between I/O APIC, MSI and the local APICs (SDM Vol. 3A sec. 11.6 and 11.11): one shape
 * for all three senders, and who a message is for.
 */

/** Delivery modes: bits 10:8 of ICR, LVT and redirection entries and of MSI data. */
export const DeliveryMode = {
  FIXED: 0,
  LOWEST_PRIORITY: 1,
  SMI: 2,
  NMI: 4,
  INIT: 5,
  /** ICR only; reserved elsewhere. */
  STARTUP: 6,
  /** The vector comes from the 8259 by an INTA cycle; LINT pins and the I/O APIC only. */
  EXTINT: 7,
} as const;

/** One interrupt message. */
export interface ApicMessage {
  /** Destination: 8 bits, or 32 where `wide`. */
  readonly destination: number;
  /** Logical destination mode; else `destination` is an APIC ID. */
  readonly logical: boolean;
  /** The sender was in x2APIC mode: the broadcast destination is 0xFFFFFFFF, not 0xFF. */
  readonly wide: boolean;
  /** A `DeliveryMode`; others are dropped. */
  readonly mode: number;
  /** 0 to 255; 0 to 15 are illegal for fixed and lowest priority. */
  readonly vector: number;
  /** Level-triggered: its EOI is broadcast to the I/O APIC. */
  readonly level: boolean;
}

/** Address of MSIs: bits 31:20 (SDM Vol. 3A sec. 11.11.1). */
const MSI_ADDRESS = 0xfee;
const MSI_ADDRESS_SHIFT = 20;
const MSI_DESTINATION_SHIFT = 12;
const MSI_REDIRECTION_HINT = 0x8;
const MSI_DESTINATION_LOGICAL = 0x4;
const MSI_DATA_LEVEL_ASSERT = 0x4000;
const MSI_DATA_TRIGGER_LEVEL = 0x8000;

/**
 * Decodes a message-signalled interrupt; `undefined` where it is none (an address outside 0xFEExxxxx, or a
 * level-triggered de-assertion, which a local APIC has no use for).
 *
 * The redirection hint asks for one processor of those addressed: lowest priority. Without it the
 * destination mode still counts, as Linux relies on (it sends logical MSIs with the hint clear).
 */
export function decodeMsi(address: number, data: number): ApicMessage | undefined {
  if (address >>> MSI_ADDRESS_SHIFT !== MSI_ADDRESS) return undefined;
  const level = (data & MSI_DATA_TRIGGER_LEVEL) !== 0;
  if (level && (data & MSI_DATA_LEVEL_ASSERT) === 0) return undefined;
  const mode = (data >>> 8) & 7;
  const redirect = (address & MSI_REDIRECTION_HINT) !== 0 && mode === DeliveryMode.FIXED;
  return {
    destination: (address >>> MSI_DESTINATION_SHIFT) & 0xff,
    logical: (address & MSI_DESTINATION_LOGICAL) !== 0,
    wide: false,
    mode: redirect ? DeliveryMode.LOWEST_PRIORITY : mode,
    vector: data & 0xff,
    level,
  };
}

/** What a receiver compares a destination with. */
export interface ApicAddress {
  readonly id: number;
  readonly x2apic: boolean;
  /** xAPIC logical ID: LDR bits 31:24. */
  readonly logicalId: number;
  /** xAPIC destination model: DFR bits 31:28; 0xF flat, 0x0 cluster, others match nothing. */
  readonly model: number;
}

const MODEL_FLAT = 0xf;
const MODEL_CLUSTER = 0x0;

/** Whether a message is for every APIC, whatever its ID. */
export function isBroadcast(message: ApicMessage): boolean {
  return message.destination === (message.wide ? 0xffff_ffff : 0xff);
}

/** Logical ID in x2APIC mode, fixed by the APIC ID (SDM Vol. 3A sec. 11.12.10.2). */
export function x2apicLogicalId(id: number): number {
  return ((id >>> 4) << 16) | (1 << (id & 0xf));
}

/** Whether `message` is for `receiver` (SDM Vol. 3A sec. 11.6.2). */
export function isAddressed(message: ApicMessage, receiver: ApicAddress): boolean {
  if (isBroadcast(message)) return true;
  const { destination } = message;
  if (!message.logical) return destination === receiver.id;
  if (receiver.x2apic) {
    const own = x2apicLogicalId(receiver.id);
    return destination >>> 16 === own >>> 16 && (destination & own & 0xffff) !== 0;
  }
  if (destination > 0xff) return false;
  if (receiver.model === MODEL_FLAT) return (destination & receiver.logicalId) !== 0;
  if (receiver.model !== MODEL_CLUSTER) return false;
  const sameCluster = destination >>> 4 === receiver.logicalId >>> 4;
  return sameCluster && (destination & receiver.logicalId & 0xf) !== 0;
}
