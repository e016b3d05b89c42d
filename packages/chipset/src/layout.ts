/**
 * Where things are in a PC: the ports, addresses and interrupt lines that decades of software take for
 * granted. Wiring claims ranges from here and the ACPI tables are written from here; no chip reads it.
 *
 * ```text
 * guest-physical address           what
 * 0x0000_0000 – 0x0009_FBFF        low RAM (639 KiB)
 * 0x0009_FC00 – 0x0009_FFFF        extended BIOS data area
 * 0x000A_0000 – 0x000B_FFFF        VGA window
 * 0x000C_0000 – 0x000D_FFFF        option ROMs
 * 0x000E_0000 – 0x000F_FFFF        BIOS area: RSDP, SMBIOS and MP anchors are searched for here
 * 0x0010_0000 – LOW_RAM_END        RAM
 * 0xC000_0000 – 0xDFFF_FFFF        PCI memory window
 * 0xE000_0000 – 0xEFFF_FFFF        PCI ECAM, 256 buses
 * 0xF000_0000 – 0xFEBF_FFFF        PCI memory window, second part
 * 0xFEC0_0000 – 0xFEC0_0FFF        I/O APIC
 * 0xFED0_0000 – 0xFED0_03FF        HPET
 * 0xFEE0_0000 – 0xFEE0_0FFF        local APIC, each processor's own
 * 0xFF00_0000 – 0xFFFF_FFFF        firmware flash; reset vector at 0xFFFF_FFF0
 * 0x1_0000_0000 –                  RAM beyond LOW_RAM_END
 *
 * port                             what
 * 0x0020 – 0x0021                  8259 master
 * 0x0040 – 0x0043                  8254
 * 0x0060, 0x0064                   i8042 data; status and command
 * 0x0061                           system control port B: channel 2 gate, speaker
 * 0x0070 – 0x0071                  RTC and CMOS
 * 0x0092                           system control port A: fast A20, fast reset
 * 0x00A0 – 0x00A1                  8259 slave
 * 0x00B2 – 0x00B3                  SMI command and status: ACPI on and off
 * 0x02E8, 0x02F8, 0x03E8, 0x03F8   COM4, COM2, COM3, COM1, eight ports each
 * 0x04D0 – 0x04D1                  8259 edge/level control
 * 0x0510 – 0x051B                  fw_cfg
 * 0x0600 – 0x062F                  ACPI power management (see Pm)
 * 0x0CF8 – 0x0CFF                  PCI configuration; byte 0x0CF9 is reset control
 * ```
 *
 * Ports 0x80 (POST codes, Linux's I/O delay) and 0xED stay unclaimed: writes vanish, reads give ones.
 */

/** A range of ports or addresses: `bytes` from `base`, half-open. */
export interface LayoutRange {
  readonly base: number;
  readonly bytes: number;
}

/** Guest-physical addresses. */
export const Mmio = {
  EBDA: { base: 0x0009_fc00, bytes: 0x400 },
  VGA: { base: 0x000a_0000, bytes: 0x2_0000 },
  OPTION_ROM: { base: 0x000c_0000, bytes: 0x2_0000 },
  BIOS: { base: 0x000e_0000, bytes: 0x2_0000 },
  PCI_WINDOW: { base: 0xc000_0000, bytes: 0x2000_0000 },
  PCI_ECAM: { base: 0xe000_0000, bytes: 0x1000_0000 },
  PCI_WINDOW_2: { base: 0xf000_0000, bytes: 0x0ec0_0000 },
  IOAPIC: { base: 0xfec0_0000, bytes: 0x1000 },
  HPET: { base: 0xfed0_0000, bytes: 0x400 },
  LAPIC: { base: 0xfee0_0000, bytes: 0x1000 },
  FLASH: { base: 0xff00_0000, bytes: 0x0100_0000 },
} as const satisfies Record<string, LayoutRange>;

/** First address after the RAM below 4 GiB, where the guest has that much. */
export const LOW_RAM_END = 0xc000_0000;
/** Start of the RAM that did not fit below `LOW_RAM_END`. */
export const HIGH_RAM_BASE = 0x1_0000_0000;

/** I/O ports. */
export const Port = {
  PIC_MASTER: { base: 0x20, bytes: 2 },
  PIT: { base: 0x40, bytes: 4 },
  I8042_DATA: { base: 0x60, bytes: 1 },
  SYSTEM_CONTROL_B: { base: 0x61, bytes: 1 },
  I8042_COMMAND: { base: 0x64, bytes: 1 },
  RTC: { base: 0x70, bytes: 2 },
  SYSTEM_CONTROL_A: { base: 0x92, bytes: 1 },
  PIC_SLAVE: { base: 0xa0, bytes: 2 },
  SMI: { base: 0xb2, bytes: 2 },
  COM4: { base: 0x2e8, bytes: 8 },
  COM2: { base: 0x2f8, bytes: 8 },
  COM3: { base: 0x3e8, bytes: 8 },
  COM1: { base: 0x3f8, bytes: 8 },
  ELCR: { base: 0x4d0, bytes: 2 },
  FW_CFG: { base: 0x510, bytes: 12 },
  /** The whole ACPI power-management block; its parts are in `Pm`. */
  ACPI_PM: { base: 0x600, bytes: 0x30 },
  PCI_CONFIG_ADDRESS: { base: 0xcf8, bytes: 4 },
  /** Inside `PCI_CONFIG_ADDRESS`: byte accesses only. Whoever claims 0xCF8 hands them on. */
  RESET_CONTROL: { base: 0xcf9, bytes: 1 },
  PCI_CONFIG_DATA: { base: 0xcfc, bytes: 4 },
} as const satisfies Record<string, LayoutRange>;

/** Parts of the ACPI power-management block, as the FADT names them. */
export const Pm = {
  PM1A_EVT: { base: 0x600, bytes: 4 },
  PM1A_CNT: { base: 0x604, bytes: 2 },
  PM_TMR: { base: 0x608, bytes: 4 },
  GPE0: { base: 0x620, bytes: 16 },
} as const satisfies Record<string, LayoutRange>;

/** ISA interrupts: the 8259 pair's inputs, and the I/O APIC's except where `GSI_OVERRIDE` says otherwise. */
export const Irq = {
  PIT: 0,
  KEYBOARD: 1,
  CASCADE: 2,
  COM2: 3,
  COM1: 4,
  COM4: 3,
  COM3: 4,
  RTC: 8,
  SCI: 9,
  MOUSE: 12,
} as const;

/** Where an ISA interrupt reaches the I/O APIC by another input (the MADT's source overrides). */
export const GSI_OVERRIDE = {
  /** Input 0 belongs to the 8259's INTR (ExtINT), so the timer comes in by 2. */
  PIT: 2,
} as const;

/** Global system interrupts, and so I/O APIC inputs, of the four lines that PCI's interrupt pins share. */
export const PCI_INTX_GSIS = [16, 17, 18, 19] as const;

/** ACPI's fixed values: what the FADT tells and the chips answer to. */
export const Acpi = {
  /** Written to the SMI command port: hand ACPI events to the operating system, and back. */
  ACPI_ENABLE: 0xf1,
  ACPI_DISABLE: 0xf0,
  /** Written to the reset control register (FADT RESET_VALUE). */
  RESET_VALUE: 0x06,
  /** SLP_TYP of the sleep states, for the DSDT's \_Sx packages. */
  SLP_TYP_S3: 1,
  SLP_TYP_S4: 2,
  SLP_TYP_S5: 0,
} as const;
