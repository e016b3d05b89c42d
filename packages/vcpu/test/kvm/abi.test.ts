import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { abi, structs } from "@skep/vcpu/kvm/testing";
import { describe, expect, it, type TestContext } from "vitest";

/** Values of C expressions by the installed headers; names that these headers do not have are left out. */
function ask(test: TestContext, expressions: Readonly<Record<string, string>>): Map<string, number> {
  if (!existsSync("/usr/include/linux/kvm.h")) test.skip("linux/kvm.h (linux-libc-dev) is not installed");
  const directory = mkdtempSync(join(tmpdir(), "skep-abi-"));
  try {
    const lines = Object.entries(expressions).map(([name, expression]) => {
      const print = `  printf("${name} %llu\\n", (unsigned long long)(${expression}));`;
      const isMacro = /^KVM_\w+$/.test(expression);
      return isMacro ? `#ifdef ${expression}\n${print}\n#endif` : print;
    });
    const source = `#include <stdio.h>\n#include <stddef.h>\n#include <linux/kvm.h>\nint main(void) {\n${lines.join("\n")}\n  return 0;\n}\n`;
    writeFileSync(join(directory, "abi.c"), source);
    try {
      execFileSync("cc", ["-o", join(directory, "abi"), join(directory, "abi.c")], { stdio: "pipe" });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") test.skip("there is no C compiler");
      throw error;
    }
    const output = execFileSync(join(directory, "abi"), { encoding: "utf8" });
    return new Map(
      output
        .trim()
        .split("\n")
        .map((line) => line.split(" "))
        .map(([name, value]) => [name!, Number(value)]),
    );
  } finally {
    rmSync(directory, { recursive: true });
  }
}

function same(
  found: ReadonlyMap<string, number>,
  stated: Readonly<Record<string, number>>,
  atLeast: number,
): void {
  expect(found.size).toBeGreaterThanOrEqual(atLeast);
  expect(Object.fromEntries([...found].map(([name]) => [name, stated[name]]))).toEqual(
    Object.fromEntries(found),
  );
}

describe("KVM's interface, as the installed headers have it", () => {
  it("ioctl numbers", (test) => {
    const names = Object.keys(abi.Ioctl);
    same(ask(test, Object.fromEntries(names.map((name) => [name, name]))), abi.Ioctl, names.length - 4);
  });

  it("capabilities", (test) => {
    const names = Object.keys(abi.Capability);
    same(ask(test, Object.fromEntries(names.map((name) => [name, name]))), abi.Capability, names.length - 4);
  });

  it("exit reasons", (test) => {
    const names = Object.keys(abi.KvmExit);
    const found = ask(test, Object.fromEntries(names.map((name) => [name, `KVM_EXIT_${name}`])));
    same(found, abi.KvmExit, names.length - 6);
  });

  it("sizes of structures", (test) => {
    const types: Readonly<Record<string, string>> = {
      REGS: "kvm_regs",
      SREGS: "kvm_sregs",
      SREGS2: "kvm_sregs2",
      SEGMENT: "kvm_segment",
      DEBUGREGS: "kvm_debugregs",
      VCPU_EVENTS: "kvm_vcpu_events",
      XSAVE: "kvm_xsave",
      XCRS: "kvm_xcrs",
      LAPIC: "kvm_lapic_state",
      CPUID2_HEADER: "kvm_cpuid2",
      CPUID_ENTRY: "kvm_cpuid_entry2",
      MSRS_HEADER: "kvm_msrs",
      MSR_ENTRY: "kvm_msr_entry",
      MSR_FILTER: "kvm_msr_filter",
      MSR_FILTER_RANGE: "kvm_msr_filter_range",
      IRQCHIP: "kvm_irqchip",
      IRQ_LEVEL: "kvm_irq_level",
      IRQ_ROUTING_HEADER: "kvm_irq_routing",
      IRQ_ROUTING_ENTRY: "kvm_irq_routing_entry",
      IRQFD: "kvm_irqfd",
      IOEVENTFD: "kvm_ioeventfd",
      MSI: "kvm_msi",
      PIT_CONFIG: "kvm_pit_config",
      PIT_STATE2: "kvm_pit_state2",
      CLOCK_DATA: "kvm_clock_data",
      ENABLE_CAP: "kvm_enable_cap",
      GUEST_DEBUG: "kvm_guest_debug",
      MEMORY_REGION: "kvm_userspace_memory_region",
      DIRTY_LOG: "kvm_dirty_log",
      CLEAR_DIRTY_LOG: "kvm_clear_dirty_log",
      DIRTY_GFN: "kvm_dirty_gfn",
      TRANSLATION: "kvm_translation",
      INTERRUPT: "kvm_interrupt",
      DEVICE_ATTR: "kvm_device_attr",
    };
    const found = ask(
      test,
      Object.fromEntries(Object.entries(types).map(([name, type]) => [name, `sizeof(struct ${type})`])),
    );
    expect(Object.fromEntries(found)).toEqual(structs.Size);
  });

  it("offsets of fields", (test) => {
    const fields: readonly (readonly [
      table: Readonly<Record<string, unknown>>,
      type: string,
      fields: Readonly<Record<string, string>>,
    ])[] = [
      [
        structs.Run,
        "kvm_run",
        {
          REQUEST_INTERRUPT_WINDOW: "request_interrupt_window",
          IMMEDIATE_EXIT: "immediate_exit",
          EXIT_REASON: "exit_reason",
          READY_FOR_INTERRUPT_INJECTION: "ready_for_interrupt_injection",
          IF_FLAG: "if_flag",
          CR8: "cr8",
          APIC_BASE: "apic_base",
          EXIT: "hw",
        },
      ],
      [
        structs.RunIo,
        "kvm_run",
        {
          DIRECTION: "io.direction",
          SIZE: "io.size",
          PORT: "io.port",
          COUNT: "io.count",
          DATA_OFFSET: "io.data_offset",
        },
      ],
      [
        structs.RunMmio,
        "kvm_run",
        { ADDRESS: "mmio.phys_addr", DATA: "mmio.data", LENGTH: "mmio.len", IS_WRITE: "mmio.is_write" },
      ],
      [
        structs.RunMsr,
        "kvm_run",
        { ERROR: "msr.error", REASON: "msr.reason", INDEX: "msr.index", DATA: "msr.data" },
      ],
      [
        structs.RunDebug,
        "kvm_run",
        {
          EXCEPTION: "debug.arch.exception",
          PC: "debug.arch.pc",
          DR6: "debug.arch.dr6",
          DR7: "debug.arch.dr7",
        },
      ],
      [
        structs.RunEmulationFailure,
        "kvm_run",
        {
          FLAGS: "emulation_failure.flags",
          INSN_SIZE: "emulation_failure.insn_size",
          INSN_BYTES: "emulation_failure.insn_bytes",
        },
      ],
      [
        structs.RunInternal,
        "kvm_run",
        { SUBERROR: "internal.suberror", NDATA: "internal.ndata", DATA: "internal.data" },
      ],
      [
        structs.RunHypercall,
        "kvm_run",
        { NUMBER: "hypercall.nr", ARGS: "hypercall.args", RESULT: "hypercall.ret" },
      ],
      [structs.RunEoi, "kvm_run", { VECTOR: "eoi.vector" }],
      [
        structs.Sregs,
        "kvm_sregs2",
        {
          CS: "cs",
          DS: "ds",
          ES: "es",
          FS: "fs",
          GS: "gs",
          SS: "ss",
          TR: "tr",
          LDTR: "ldt",
          GDTR: "gdt",
          IDTR: "idt",
          CR0: "cr0",
          CR2: "cr2",
          CR3: "cr3",
          CR4: "cr4",
          CR8: "cr8",
          EFER: "efer",
          APIC_BASE: "apic_base",
          FLAGS2: "flags",
          PDPTRS2: "pdptrs",
        },
      ],
      [
        structs.Segment,
        "kvm_segment",
        {
          BASE: "base",
          LIMIT: "limit",
          SELECTOR: "selector",
          TYPE: "type",
          PRESENT: "present",
          DPL: "dpl",
          DB: "db",
          S: "s",
          L: "l",
          G: "g",
          AVL: "avl",
          UNUSABLE: "unusable",
        },
      ],
      [structs.DebugRegs, "kvm_debugregs", { DB: "db", DR6: "dr6", DR7: "dr7" }],
      [
        structs.Events,
        "kvm_vcpu_events",
        {
          EXCEPTION_INJECTED: "exception.injected",
          EXCEPTION_NR: "exception.nr",
          EXCEPTION_HAS_ERROR_CODE: "exception.has_error_code",
          EXCEPTION_PENDING: "exception.pending",
          EXCEPTION_ERROR_CODE: "exception.error_code",
          INTERRUPT_INJECTED: "interrupt.injected",
          INTERRUPT_NR: "interrupt.nr",
          INTERRUPT_SOFT: "interrupt.soft",
          INTERRUPT_SHADOW: "interrupt.shadow",
          NMI_INJECTED: "nmi.injected",
          NMI_PENDING: "nmi.pending",
          NMI_MASKED: "nmi.masked",
          SIPI_VECTOR: "sipi_vector",
          FLAGS: "flags",
        },
      ],
    ];
    const expressions: Record<string, string> = {};
    const stated: Record<string, number> = {};
    for (const [table, type, names] of fields) {
      for (const [name, field] of Object.entries(names)) {
        expressions[`${type}.${field}`] = `offsetof(struct ${type}, ${field})`;
        stated[`${type}.${field}`] = table[name] as number;
      }
    }
    const registers = "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15 rip rflags".split(" ");
    const places = [...structs.Regs.GPR, structs.Regs.RIP, structs.Regs.RFLAGS];
    registers.forEach((name, i) => {
      expressions[`kvm_regs.${name}`] = `offsetof(struct kvm_regs, ${name})`;
      stated[`kvm_regs.${name}`] = places[i]!;
    });
    expect(Object.fromEntries(ask(test, expressions))).toEqual(stated);
  });
});
