/**
 * Events that do not pass through an exit: interrupts raised by writing to a file descriptor (irqfd, api.rst sec.
 * 4.75) and guest writes that signal one (ioeventfd, sec. 4.59).
 */
import { IoeventfdFlag, IrqfdFlag } from "./abi.ts";
import type { Native } from "./native.ts";
import { Size, Struct } from "./structs.ts";

/** An interrupt that anybody with the file descriptor can raise, in this process or another. */
export interface IrqFd {
  readonly fd: number;
  /** Raises an edge of the interrupt. */
  trigger(): void;
  /** Takes it away from the interrupt controller and closes the descriptor. */
  close(): void;
}

/** Where a doorbell is. */
export interface DoorbellRange {
  readonly space: "port" | "memory";
  readonly address: number;
  /** Bytes of the write, 1, 2, 4 or 8; 0: any width, where the kernel offers it. */
  readonly bytes: 0 | 1 | 2 | 4 | 8;
  /** Only writes of this value count. Default: any. */
  readonly value?: bigint;
}

/** A guest write that ends in a count instead of an exit. */
export interface Doorbell {
  readonly fd: number;
  /** Stops and closes it: further writes exit again. */
  close(): void;
}

/** Connects a new eventfd to `gsi`. @throws KvmError */
export function makeIrqFd(native: Native, vmFd: number, gsi: number): IrqFd {
  const fd = native.eventFd();
  const assign = (flags: number): void => {
    const irqfd = new Struct(Size.IRQFD);
    irqfd.setU32(0, fd);
    irqfd.setU32(4, gsi);
    irqfd.setU32(8, flags);
    native.ioctlStruct(vmFd, "KVM_IRQFD", irqfd);
  };
  try {
    assign(0);
  } catch (error) {
    native.close(fd);
    throw error;
  }
  let isOpen = true;
  return {
    fd,
    trigger: () => {
      if (isOpen) native.signalEventFd(fd);
    },
    close: () => {
      if (!isOpen) return;
      isOpen = false;
      assign(IrqfdFlag.DEASSIGN);
      native.close(fd);
    },
  };
}

/** Makes guest writes to `range` count in a new eventfd. @throws KvmError */
export function makeDoorbell(native: Native, vmFd: number, range: DoorbellRange): Doorbell {
  const fd = native.eventFd();
  const assign = (extra: number): void => {
    const ioeventfd = new Struct(Size.IOEVENTFD);
    ioeventfd.setU64(0, range.value ?? 0n);
    ioeventfd.setU64(8, BigInt(range.address));
    ioeventfd.setU32(16, range.bytes);
    ioeventfd.setU32(20, fd);
    const match = range.value === undefined ? 0 : IoeventfdFlag.DATAMATCH;
    const space = range.space === "port" ? IoeventfdFlag.PIO : 0;
    ioeventfd.setU32(24, match | space | extra);
    native.ioctlStruct(vmFd, "KVM_IOEVENTFD", ioeventfd);
  };
  try {
    assign(0);
  } catch (error) {
    native.close(fd);
    throw error;
  }
  let isOpen = true;
  return {
    fd,
    close: () => {
      if (!isOpen) return;
      isOpen = false;
      assign(IoeventfdFlag.DEASSIGN);
      native.close(fd);
    },
  };
}
