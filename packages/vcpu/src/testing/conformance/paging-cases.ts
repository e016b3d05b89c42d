import { type CaseGroup, type ConformanceCase, type Need, start } from "./case.ts";
import { CR0, CR4, EFER, expectEqual, expectRegisters, type Guest, runToHalt, runToVector } from "./guest.ts";
import { gate, gate64, hex, Layout, Selector, u32s } from "./layout.ts";
import { PageTables, type PagingMode, PF, Pte } from "./page-tables.ts";

const { P, W, U, A, D, PS, G, NX } = Pte;
const LINEAR = 0x40_0000n;

/** Control registers that turn a paging mode on; 64-bit code for 4-level paging, 32-bit for the others. */
function paged(
  guest: Guest,
  mode: PagingMode,
  code: { b32: Uint8Array; b64: Uint8Array },
  tables: PageTables,
  more: {
    cr0?: bigint;
    cr4?: bigint;
    efer?: bigint;
    registers?: Record<string, bigint>;
    rflags?: bigint;
  } = {},
): void {
  const cr4 = (mode === "32-bit" ? CR4.PSE : CR4.PAE) | (more.cr4 ?? 0n);
  const options = { ...more, cr4, cr3: tables.root };
  if (mode === "4-level") start(guest, "long", code.b64, options);
  else {
    const pdptrs = mode === "PAE" ? tables.pdptrs : ([0n, 0n, 0n, 0n] as const);
    start(guest, "protected", code.b32, { ...options, pdptrs: [...pdptrs], cr0: CR0.PG | (more.cr0 ?? 0n) });
  }
  tables.install(guest);
}

/** Reads and writes [rbx], and halts. */
const TOUCH = {
  read: {
    b32: hex`
      ; bits 32, at 0x8000
      8b 03 ; mov eax, [ebx]
      f4    ; hlt
    `,
    b64: hex`
      ; bits 64, at 0x8000
      8b 03 ; mov eax, [rbx]
      f4    ; hlt
    `,
  },
  write: {
    b32: hex`
      ; bits 32, at 0x8000
      89 0b ; mov [ebx], ecx
      f4    ; hlt
    `,
    b64: hex`
      ; bits 64, at 0x8000
      89 0b ; mov [rbx], ecx
      f4    ; hlt
    `,
  },
  execute: {
    b32: hex`
      ; bits 32, at 0x8000
      ff e3 ; jmp ebx
    `,
    b64: hex`
      ; bits 64, at 0x8000
      ff e3 ; jmp rbx
    `,
  },
};

/** The same from ring 3. */
const USER_TOUCH = {
  read: {
    b32: hex`
      ; bits 32, at 0x8000
      6a 3b          ; push 0x3b
      68 00 64 00 00 ; push 0x6400
      6a 02          ; push 0x2
      6a 33          ; push 0x33
      68 11 80 00 00 ; push @user
      cf             ; iretd
      ; user:
      66 b8 3b 00    ; mov ax, 0x3b
      8e d8          ; mov ds, ax
      8b 03          ; mov eax, [ebx]
      cd 81          ; int 0x81
    `,
    b64: hex`
      ; bits 64, at 0x8000
      6a 3b          ; push 0x3b
      68 00 64 00 00 ; push 0x6400
      6a 02          ; push 0x2
      6a 43          ; push 0x43
      68 12 80 00 00 ; push @user
      48 cf          ; iretq
      ; user:
      8b 03          ; mov eax, [rbx]
      cd 81          ; int 0x81
    `,
  },
  write: {
    b32: hex`
      ; bits 32, at 0x8000
      6a 3b          ; push 0x3b
      68 00 64 00 00 ; push 0x6400
      6a 02          ; push 0x2
      6a 33          ; push 0x33
      68 11 80 00 00 ; push @user
      cf             ; iretd
      ; user:
      66 b8 3b 00    ; mov ax, 0x3b
      8e d8          ; mov ds, ax
      89 0b          ; mov [ebx], ecx
      cd 81          ; int 0x81
    `,
    b64: hex`
      ; bits 64, at 0x8000
      6a 3b          ; push 0x3b
      68 00 64 00 00 ; push 0x6400
      6a 02          ; push 0x2
      6a 43          ; push 0x43
      68 12 80 00 00 ; push @user
      48 cf          ; iretq
      ; user:
      89 0b          ; mov [rbx], ecx
      cd 81          ; int 0x81
    `,
  },
  execute: {
    b32: hex`
      ; bits 32, at 0x8000
      6a 3b          ; push 0x3b
      68 00 64 00 00 ; push 0x6400
      6a 02          ; push 0x2
      6a 33          ; push 0x33
      53             ; push ebx
      cf             ; iretd
    `,
    b64: hex`
      ; bits 64, at 0x8000
      6a 3b          ; push 0x3b
      68 00 64 00 00 ; push 0x6400
      6a 02          ; push 0x2
      6a 43          ; push 0x43
      53             ; push rbx
      48 cf          ; iretq
    `,
  },
};

type Access = keyof typeof TOUCH;

/** Expects a page fault with this error code, and CR2 at the address. */
function expectPageFault(guest: Guest, error: number, cr2 = LINEAR): void {
  const { state, sp } = runToVector(guest, 14);
  expectEqual("error code", guest.u32(sp), error);
  expectEqual("CR2", state.cr2, cr2);
}

/** What an access to a page with certain rights comes to: an error code, or -1 where it is allowed. */
interface Rights {
  readonly name: string;
  readonly flags: bigint;
  /** Rights of the tables above; they count as well. */
  readonly tables?: bigint;
  readonly access: Access;
  readonly user: boolean;
  readonly error: number;
  readonly cr0?: bigint;
  readonly cr4?: bigint;
  readonly efer?: bigint;
  readonly modes?: readonly PagingMode[];
  readonly rflags?: bigint;
}

const LONG_OR_PAE = ["PAE", "4-level"] as const;

const RIGHTS: readonly Rights[] = [
  { name: "a page that is not there", flags: 0n, access: "read", user: false, error: 0 },
  { name: "a write to a page that is not there", flags: 0n, access: "write", user: false, error: PF.W },
  { name: "ring 3 and a page that is not there", flags: 0n, access: "write", user: true, error: PF.W | PF.U },
  { name: "ring 3 on a supervisor page", flags: P | W, access: "read", user: true, error: PF.P | PF.U },
  {
    name: "ring 3 under a supervisor table",
    flags: P | W | U,
    tables: P | W,
    access: "read",
    user: true,
    error: PF.P | PF.U,
    modes: ["32-bit", "4-level"],
  },
  {
    name: "ring 3 writing to a read-only page",
    flags: P | U,
    access: "write",
    user: true,
    error: PF.P | PF.W | PF.U,
  },
  {
    name: "ring 3 writing under a read-only table",
    flags: P | W | U,
    tables: P | U,
    access: "write",
    user: true,
    error: PF.P | PF.W | PF.U,
    modes: ["32-bit", "4-level"],
  },
  { name: "ring 3 on a user page", flags: P | W | U, access: "write", user: true, error: -1 },
  {
    name: "ring 0 writing to a read-only page, CR0.WP clear",
    flags: P,
    access: "write",
    user: false,
    error: -1,
  },
  {
    name: "ring 0 writing to a read-only page, CR0.WP set",
    flags: P,
    access: "write",
    user: false,
    cr0: CR0.WP,
    error: PF.P | PF.W,
  },
  { name: "execution, NX clear", flags: P | U, access: "execute", user: true, error: -1 },
  {
    name: "execution of a page with NX",
    flags: P | U | NX,
    access: "execute",
    user: false,
    efer: EFER.NXE,
    error: PF.P | PF.I,
    modes: LONG_OR_PAE,
  },
  {
    name: "ring 3 executing a page with NX",
    flags: P | U | NX,
    access: "execute",
    user: true,
    efer: EFER.NXE,
    error: PF.P | PF.U | PF.I,
    modes: LONG_OR_PAE,
  },
  {
    name: "execution of a page that is not there, NXE set",
    flags: 0n,
    access: "execute",
    user: false,
    efer: EFER.NXE,
    error: PF.I,
    modes: LONG_OR_PAE,
  },
  {
    name: "execution of a page that is not there, NXE clear",
    flags: 0n,
    access: "execute",
    user: false,
    error: 0,
  },
  {
    name: "NX while NXE is clear, a reserved bit",
    flags: P | U | NX,
    access: "read",
    user: false,
    error: PF.P | PF.RSVD,
    modes: LONG_OR_PAE,
  },
  {
    name: "a read of a page with NX",
    flags: P | NX,
    access: "read",
    user: false,
    efer: EFER.NXE,
    error: -1,
    modes: LONG_OR_PAE,
  },
  {
    name: "a reserved address bit",
    flags: P | (1n << 51n),
    access: "read",
    user: false,
    error: PF.P | PF.RSVD,
    modes: LONG_OR_PAE,
  },
  {
    name: "ring 0 executing a user page under SMEP",
    flags: P | U,
    access: "execute",
    user: false,
    cr4: CR4.SMEP,
    error: PF.P | PF.I,
  },
  {
    name: "ring 0 executing a supervisor page under SMEP",
    flags: P,
    access: "execute",
    user: false,
    cr4: CR4.SMEP,
    error: -1,
  },
  {
    name: "ring 0 reading a user page under SMAP",
    flags: P | U,
    access: "read",
    user: false,
    cr4: CR4.SMAP,
    error: PF.P,
  },
  {
    name: "ring 0 writing to a user page under SMAP",
    flags: P | W | U,
    access: "write",
    user: false,
    cr4: CR4.SMAP,
    error: PF.P | PF.W,
  },
  {
    name: "ring 0 reading a user page under SMAP with AC",
    flags: P | U,
    access: "read",
    user: false,
    cr4: CR4.SMAP,
    rflags: 1n << 18n,
    error: -1,
  },
  {
    name: "ring 3 reading a user page under SMAP",
    flags: P | U,
    access: "read",
    user: true,
    cr4: CR4.SMAP,
    error: -1,
  },
];

function rightsCase(mode: PagingMode, rights: Rights): ConformanceCase<Guest> {
  const { access, user, error, cr0 = 0n, cr4 = 0n, efer = 0n, rflags = 0n } = rights;
  const needs: Need[] = ["paging", mode === "4-level" ? "long mode" : "protected mode"];
  if (cr4 & CR4.SMEP) needs.push("SMEP");
  if (cr4 & CR4.SMAP) needs.push("SMAP");
  return {
    name: `${mode}: ${error < 0 ? "allows" : "faults at"} ${rights.name}`,
    needs,
    run(guest) {
      const tables = new PageTables(mode);
      // Ring 0's code, stack and tables are supervisor pages, so that SMEP and SMAP leave it alone.
      tables.mapLow(0x2_0000, P | W);
      if (user) tables.map(BigInt(Layout.CODE), BigInt(Layout.CODE), P | W | U);
      tables.map(LINEAR, BigInt(Layout.DATA), rights.flags, 0, rights.tables ?? P | W | U);
      const code = (user ? USER_TOUCH : TOUCH)[access];
      const registers = { rbx: LINEAR, rcx: 0x1234_5678n };
      paged(guest, mode, code, tables, { cr0, cr4, efer, rflags, registers });
      guest.load(Layout.DATA, access === "execute" ? EXIT : u32s(0xfeed_f00d));
      const handler = Layout.HANDLERS + 4 * 0x81;
      if (mode === "4-level") guest.load(Layout.IDT + 16 * 0x81, gate64(Selector.CODE64, handler, 0xee));
      else guest.load(Layout.IDT + 8 * 0x81, gate(Selector.CODE32, handler, 0xee));
      if (error >= 0) expectPageFault(guest, error);
      else if (user || access === "execute") runToVector(guest, 0x81);
      else runToHalt(guest);
      if (access === "write")
        expectEqual("memory", guest.u32(Layout.DATA), error < 0 ? 0x1234_5678 : 0xfeed_f00d);
    },
  };
}

/** What is executed where execution is allowed. */
const EXIT = hex`
  ; bits 32, at 0x400000
  cd 81 ; int 0x81
`;

export const pagingCases: CaseGroup<Guest> = {
  title: "paging",
  cases: [
    ...(["32-bit", "PAE", "4-level"] as const).flatMap((mode) =>
      RIGHTS.filter(({ modes }) => modes === undefined || modes.includes(mode)).map((rights) =>
        rightsCase(mode, rights),
      ),
    ),
    ...(["32-bit", "PAE", "4-level"] as const).flatMap((mode) => [
      accessedAndDirty(mode),
      largePages(mode),
      crossing(mode),
      invalidation(mode),
    ]),
    {
      name: "4-level: maps 1 GiB pages",
      needs: ["paging", "long mode", "1 GiB pages"],
      run(guest) {
        const tables = new PageTables("4-level");
        tables.mapLow(0x2_0000, P | W);
        const entry = tables.map(0x40_0000_0000n, 0n, P | W | PS, 2);
        paged(guest, "4-level", TOUCH.write, tables, {
          registers: { rbx: 0x40_0000_0000n + BigInt(Layout.DATA), rcx: 0x1111_2222n },
        });
        runToHalt(guest);
        expectEqual("memory", guest.u32(Layout.DATA), 0x1111_2222);
        expectEqual("A and D", guest.u64(entry) & (A | D), A | D);
      },
    },
    {
      name: "4-level: translates the high half and refuses what is not canonical",
      needs: ["paging", "long mode"],
      run(guest) {
        const high = 0xffff_ffff_8000_0000n;
        const tables = new PageTables("4-level");
        tables.mapLow(0x2_0000, P | W);
        tables.map(high, BigInt(Layout.DATA), P | W);
        paged(guest, "4-level", TOUCH.write, tables, { registers: { rbx: high, rcx: 0x77n } });
        runToHalt(guest);
        expectEqual("memory", guest.u32(Layout.DATA), 0x77);

        for (const address of [0x8000_0000_0000n, 0xffff_7fff_ffff_fffcn]) {
          paged(guest, "4-level", TOUCH.read, tables, { registers: { rbx: address } });
          expectEqual("error code", guest.u32(runToVector(guest, 13).sp), 0);
        }
      },
    },
    {
      name: "4-level: raises #SS for an address through RBP that is not canonical",
      needs: ["paging", "long mode"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          48 8b 45 00 ; mov rax, [rbp]
          f4          ; hlt
        `,
          { registers: { rbp: 0x8000_0000_0000n } },
        );
        // Through RBP it is the stack segment's fault (SDM Vol. 3A sec. 7.15, #SS).
        expectEqual("error code", guest.u32(runToVector(guest, 12).sp), 0);
      },
    },
    {
      name: "PAE: loads PDPTEs with CR3, not from memory at each walk",
      needs: ["paging", "protected mode"],
      run(guest) {
        const tables = new PageTables("PAE");
        tables.mapLow(0x4_0000, P | W);
        tables.map(0x4000_0000n, BigInt(Layout.DATA), P | W);
        paged(
          guest,
          "PAE",
          {
            b32: hex`
            ; bits 32, at 0x8000
            c7 05 08 00 03 00 00 00 00 00 ; mov dword ptr [0x30008], 0
            0f 01 3d 00 00 00 40          ; invlpg [0x40000000]
            a1 00 00 00 40                ; mov eax, [0x40000000]
            0f 20 db                      ; mov ebx, cr3
            0f 22 db                      ; mov cr3, ebx
            a1 00 00 00 40                ; mov eax, [0x40000000]
            f4                            ; hlt
          `,
            b64: new Uint8Array(),
          },
          tables,
        );
        guest.load(Layout.DATA, u32s(0x5555_aaaa));
        const { state, sp } = runToVector(guest, 14);
        expectEqual("EIP", guest.u32(sp + 4), 0x801c);
        expectEqual("CR2", state.cr2, 0x4000_0000n);
      },
    },
    {
      name: "PAE: raises #GP where CR3 leads to a PDPTE with reserved bits",
      needs: ["paging", "protected mode"],
      run(guest) {
        const tables = new PageTables("PAE");
        tables.mapLow(0x4_0000, P | W);
        paged(
          guest,
          "PAE",
          {
            b32: hex`
            ; bits 32, at 0x8000
            c7 05 08 00 03 00 03 10 03 00 ; mov dword ptr [0x30008], 0x31003
            0f 20 db                      ; mov ebx, cr3
            0f 22 db                      ; mov cr3, ebx
            f4                            ; hlt
          `,
            b64: new Uint8Array(),
          },
          tables,
        );
        const { sp } = runToVector(guest, 13);
        expectEqual("error code, EIP", [guest.u32(sp), guest.u32(sp + 4)], [0, 0x800d]);
      },
    },
    {
      name: "keeps global pages when CR3 is loaded, until INVLPG",
      needs: ["paging", "long mode"],
      run(guest) {
        const tables = new PageTables("4-level");
        tables.mapLow(0x4_0000, P | W);
        const entry = tables.map(LINEAR, BigInt(Layout.DATA), P | W | G);
        // A processor may forget a translation at any time, but may not use a stale one after INVLPG.
        paged(
          guest,
          "4-level",
          {
            b32: new Uint8Array(),
            b64: hex`
            ; bits 64, at 0x8000
            8b 04 25 00 00 40 00    ; mov eax, [0x400000]
            48 8b 0a                ; mov rcx, [rdx]
            48 81 c1 00 10 00 00    ; add rcx, 0x1000
            48 89 0a                ; mov [rdx], rcx
            0f 20 d9                ; mov rcx, cr3
            0f 22 d9                ; mov cr3, rcx
            0f 01 3c 25 00 00 40 00 ; invlpg [0x400000]
            8b 1c 25 00 00 40 00    ; mov ebx, [0x400000]
            f4                      ; hlt
          `,
          },
          tables,
          { cr4: CR4.PGE, registers: { rdx: BigInt(entry) } },
        );
        guest.load(Layout.DATA, u32s(1));
        guest.load(Layout.DATA + 0x1000, u32s(2));
        expectRegisters(runToHalt(guest), { rax: 1n, rbx: 2n });
      },
    },
    {
      name: "faults in the middle of REP MOVS with the registers where it stopped",
      needs: ["paging", "long mode"],
      run(guest) {
        const tables = new PageTables("4-level");
        tables.mapLow(0x3_0000, P | W);
        tables.map(LINEAR, BigInt(Layout.DATA), P | W);
        paged(
          guest,
          "4-level",
          {
            b32: new Uint8Array(),
            b64: hex`
            ; bits 64, at 0x8000
            f3 a4 ; rep movsb
            f4    ; hlt
          `,
          },
          tables,
          { registers: { rcx: 0x20n, rsi: 0x2_8000n, rdi: LINEAR + 0xff4n } },
        );
        const { state, sp } = runToVector(guest, 14);
        expectEqual("error code", guest.u32(sp), PF.W);
        expectEqual("CR2", state.cr2, LINEAR + 0x1000n);
        expectRegisters(state, { rcx: 0x14n, rsi: 0x2_800cn, rdi: LINEAR + 0x1000n });
        expectEqual("pushed RIP", guest.u64(sp + 8), BigInt(Layout.CODE));
      },
    },
    {
      name: "writes nothing of a store whose second page faults",
      needs: ["paging", "long mode"],
      run(guest) {
        const tables = new PageTables("4-level");
        tables.mapLow(0x3_0000, P | W);
        tables.map(LINEAR, BigInt(Layout.DATA), P | W);
        paged(guest, "4-level", TOUCH.write, tables, {
          registers: { rbx: LINEAR + 0xffen, rcx: 0xffff_ffffn },
        });
        expectPageFault(guest, PF.W, LINEAR + 0x1000n);
        expectEqual("end of the first page", guest.u16(Layout.DATA + 0xffe), 0);
      },
    },
    {
      name: "uses supervisor access for descriptor tables in ring 3",
      needs: ["paging", "protected mode"],
      run(guest) {
        const tables = new PageTables("32-bit");
        tables.mapLow(0x2_0000, P | W);
        tables.map(BigInt(Layout.CODE), BigInt(Layout.CODE), P | W | U);
        paged(guest, "32-bit", USER_TOUCH.read, tables, { registers: { rbx: 0x8000n } });
        guest.load(Layout.IDT + 8 * 0x81, gate(Selector.CODE32, Layout.HANDLERS + 4 * 0x81, 0xee));
        // mov ds in ring 3 reads the GDT, which lies in a supervisor page.
        runToVector(guest, 0x81);
      },
    },
  ],
};

/** A read sets A in the whole walk, a write D in the leaf as well (SDM Vol. 3A sec. 4.8). */
function accessedAndDirty(mode: PagingMode): ConformanceCase<Guest> {
  return {
    name: `${mode}: sets accessed and dirty bits`,
    needs: ["paging", mode === "4-level" ? "long mode" : "protected mode"],
    run(guest) {
      for (const access of ["read", "write"] as const) {
        const tables = new PageTables(mode);
        tables.mapLow(0x2_0000, P | W);
        const entry = tables.map(LINEAR, BigInt(Layout.DATA), P | W);
        const untouched = tables.map(LINEAR + 0x1000n, BigInt(Layout.DATA), P | W);
        paged(guest, mode, TOUCH[access], tables, { registers: { rbx: LINEAR } });
        runToHalt(guest);
        const bits = (address: number): bigint => BigInt(guest.u32(address)) & (A | D);
        expectEqual(`A and D after a ${access}`, bits(entry), access === "write" ? A | D : A);
        expectEqual("A and D of a page not touched", bits(untouched), 0n);
        if (mode !== "PAE") expectEqual("A of the root's entry", BigInt(guest.u32(Layout.OWN_TABLES)) & A, A);
      }
    },
  };
}

function largePages(mode: PagingMode): ConformanceCase<Guest> {
  return {
    name: `${mode}: maps ${mode === "32-bit" ? 4 : 2} MiB pages`,
    needs: ["paging", mode === "4-level" ? "long mode" : "protected mode"],
    run(guest) {
      const tables = new PageTables(mode);
      tables.mapLow(0x2_0000, P | W);
      const linear = 0x80_0000n;
      const entry = tables.map(linear, 0n, P | W | PS, 1);
      const registers = { rbx: linear + BigInt(Layout.DATA), rcx: 0xabcd_ef01n };
      paged(guest, mode, TOUCH.write, tables, { registers });
      runToHalt(guest);
      expectEqual("memory", guest.u32(Layout.DATA), 0xabcd_ef01);
      expectEqual("A and D", BigInt(guest.u32(entry)) & (A | D), A | D);
      if (mode === "32-bit") return;
      // Bits 20:13 of a 2 MiB page's entry are reserved (SDM Vol. 3A table 4-18).
      tables.map(linear, 0x2000n, P | W | PS, 1);
      paged(guest, mode, TOUCH.write, tables, { registers });
      expectPageFault(guest, PF.P | PF.W | PF.RSVD, linear + BigInt(Layout.DATA));
    },
  };
}

/** An access over two pages that lie apart. */
function crossing(mode: PagingMode): ConformanceCase<Guest> {
  return {
    name: `${mode}: crosses from page to page`,
    needs: ["paging", mode === "4-level" ? "long mode" : "protected mode"],
    run(guest) {
      const tables = new PageTables(mode);
      tables.mapLow(0x2_0000, P | W);
      tables.map(LINEAR, BigInt(Layout.DATA), P | W);
      tables.map(LINEAR + 0x1000n, BigInt(Layout.DATA + 0x3000), P | W);
      paged(guest, mode, TOUCH.write, tables, { registers: { rbx: LINEAR + 0xffdn, rcx: 0x4433_2211n } });
      runToHalt(guest);
      const bytes = [0xffd, 0xffe, 0xfff, 0x3000].map((offset) => guest.u8(Layout.DATA + offset));
      expectEqual("bytes", bytes, [0x11, 0x22, 0x33, 0x44]);
    },
  };
}

/** A changed entry counts after INVLPG, and after CR3 is loaded. */
function invalidation(mode: PagingMode): ConformanceCase<Guest> {
  return {
    name: `${mode}: sees a changed entry after INVLPG and after CR3 is loaded`,
    needs: ["paging", mode === "4-level" ? "long mode" : "protected mode"],
    run(guest) {
      const tables = new PageTables(mode);
      tables.mapLow(0x4_0000, P | W);
      const entry = tables.map(LINEAR, BigInt(Layout.DATA), P | W);
      paged(
        guest,
        mode,
        {
          b32: hex`
          ; bits 32, at 0x8000
          a1 00 00 40 00       ; mov eax, [0x400000]
          81 02 00 10 00 00    ; add dword ptr [edx], 0x1000
          0f 01 3d 00 00 40 00 ; invlpg [0x400000]
          8b 1d 00 00 40 00    ; mov ebx, [0x400000]
          81 02 00 10 00 00    ; add dword ptr [edx], 0x1000
          0f 20 d9             ; mov ecx, cr3
          0f 22 d9             ; mov cr3, ecx
          8b 35 00 00 40 00    ; mov esi, [0x400000]
          f4                   ; hlt
        `,
          b64: hex`
          ; bits 64, at 0x8000
          8b 04 25 00 00 40 00    ; mov eax, [0x400000]
          81 02 00 10 00 00       ; add dword ptr [rdx], 0x1000
          0f 01 3c 25 00 00 40 00 ; invlpg [0x400000]
          8b 1c 25 00 00 40 00    ; mov ebx, [0x400000]
          81 02 00 10 00 00       ; add dword ptr [rdx], 0x1000
          0f 20 d9                ; mov rcx, cr3
          0f 22 d9                ; mov cr3, rcx
          8b 34 25 00 00 40 00    ; mov esi, [0x400000]
          f4                      ; hlt
        `,
        },
        tables,
        { registers: { rdx: BigInt(entry) } },
      );
      for (const i of [0, 1, 2]) guest.load(Layout.DATA + 0x1000 * i, u32s(i + 1));
      expectRegisters(runToHalt(guest), { rax: 1n, rbx: 2n, rsi: 3n });
    },
  };
}
