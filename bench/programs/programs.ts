/** What the guest runs: Debian's programs as they are, each a fixed piece of work. */

export interface Program {
  /** Word of its markers and of its row. */
  readonly name: string;
  /** What it does, for the help. */
  readonly what: string;
  /** Shell line before the clock starts; what it prints is lost. */
  readonly prepare?: string;
  /** Shell line that is timed. Its output is its result unless `result` says otherwise. */
  readonly run: string;
  /** Shell line afterwards whose output is the result: one line, which every machine must agree on. */
  readonly result?: string;
  /** The result where it is the same in every version of the program. */
  readonly expected?: string;
}

/** Names of Debian's packages. */
export const PACKAGES = ["openssl", "python3-minimal", "cpp", "binutils", "sqlite3", "xz-utils"];

const KEY = "000102030405060708090a0b0c0d0e0f";
/** 2^2203 - 1 is prime: a Mersenne prime for Miller and Rabin, each round one power modulo it. */
const MERSENNE = ((1n << 2203n) - 1n).toString(16);

const python = (...lines: string[]): string => `python3 -c '${lines.join("\n")}'`;
const zeros = (mib: number): string =>
  `[ -e /tmp/zeros${mib} ] || dd if=/dev/zero of=/tmp/zeros${mib} bs=1048576 count=${mib}`;
/** Some megabytes that no packer finds trivial, the same on each machine: the compiler's own code. */
const someCode = "dd if=$CC1 of=/tmp/code bs=1048576 skip=4 count=3";
// By its path: busybox has an xz of its own, which its shell would take.
const pack = "/usr/bin/xz -3 -T1 -k -f /tmp/code";
const fill =
  'sqlite3 /tmp/db "CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT, c REAL); ' +
  "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40000) " +
  "INSERT INTO t SELECT i, printf('%08x', i * 2654435761 & 4294967295), i / 7.0 FROM n; " +
  'CREATE INDEX tb ON t(b); SELECT count(*), max(b) FROM t"';

export const PROGRAMS: readonly Program[] = [
  {
    name: "sha256",
    what: "openssl dgst -sha256, 32 MiB",
    prepare: zeros(32),
    run: "openssl dgst -sha256 -r /tmp/zeros32",
    expected: "83ee47245398adee79bd9c0a8bc57b821e92aba10f5f9ade8a5d1fae4d8c4302 */tmp/zeros32",
  },
  {
    name: "md5",
    what: "openssl dgst -md5, 64 MiB",
    prepare: zeros(64),
    run: "openssl dgst -md5 -r /tmp/zeros64",
    expected: "7f614da9329cd3aebf59b91aadc30bf0 */tmp/zeros64",
  },
  {
    name: "aes",
    what: "openssl enc -aes-128-cbc, 32 MiB",
    prepare: zeros(32),
    run: `openssl enc -aes-128-cbc -K ${KEY} -iv ${KEY} -in /tmp/zeros32 -out /tmp/aes`,
    result: "openssl dgst -md5 -r /tmp/aes",
    expected: "868b3cb6c517e3c19bad63ccfee9bf97 */tmp/aes",
  },
  {
    name: "pbkdf2",
    what: "openssl kdf, 50,000 iterations of HMAC-SHA512",
    run: "openssl kdf -keylen 16 -kdfopt digest:SHA512 -kdfopt pass:skep -kdfopt salt:hive -kdfopt iter:50000 PBKDF2",
    expected: "17:BD:5D:4E:1C:29:2D:6D:1E:A0:4C:2E:14:20:B0:FB",
  },
  {
    name: "bignum",
    what: "openssl prime, 20 rounds on 2,203 bits",
    run: `openssl prime -hex -checks 20 ${MERSENNE}`,
    result: "md5sum </tmp/out",
  },
  {
    name: "pystart",
    what: "python3 -c pass, five times",
    prepare: "python3 -c pass",
    run: "for i in 1 2 3 4 5; do python3 -c pass; done; echo up",
  },
  {
    name: "pyint",
    what: "a loop of integers in Python",
    run: python("s = 1", "for i in range(600000): s = (s * 31 + i) % 1000003", "print(s)"),
    expected: "604579",
  },
  {
    name: "pyfloat",
    what: "a loop of floats in Python",
    run: python(
      "x, s = 0.5, 0.0",
      "for i in range(600000):",
      "  x = 3.9 * x * (1.0 - x)",
      "  s += x / 3.0 - x ** 2",
      "print(repr(x), repr(s))",
    ),
    expected: "0.09673696839213183 -145862.231810894",
  },
  {
    name: "pydict",
    what: "a dictionary in Python",
    run: python(
      "d = {}",
      "for i in range(300000):",
      "  k = i * 7919 % 50021",
      "  d[k] = d.get(k, 0) + i",
      "print(len(d), sum(d.values()) % 1000003)",
    ),
    expected: "50021 715003",
  },
  {
    name: "pystr",
    what: "strings in Python",
    run: python(
      't = ",".join([str(i * i) for i in range(200000)])',
      'u = [w[::-1].upper() for w in t.replace("77", "seven").split(",")]',
      'print(len(t), t.count("123"), sum(map(len, u)), sorted(u)[4711])',
    ),
    expected: "2253750 1859 2090024 0016395403",
  },
  {
    name: "cc",
    what: "cc1 -O2 and as, of work.c",
    run: "$CC1 -quiet -fpreprocessed -O2 /work.c -o /tmp/work.s && as -o /tmp/work.o /tmp/work.s",
    result: "md5sum </tmp/work.o",
  },
  {
    name: "insert",
    what: "sqlite3: 40,000 rows and an index",
    prepare: "rm -f /tmp/db",
    run: fill,
    expected: "40000|fffe90c3",
  },
  {
    name: "select",
    what: "sqlite3: selects of those rows",
    prepare: `[ -e /tmp/db ] || ${fill}`,
    run:
      'sqlite3 /tmp/db "SELECT substr(b, 1, 2) p, count(*), sum(c) FROM t GROUP BY p ORDER BY 3 DESC LIMIT 3; ' +
      "SELECT count(*) FROM t x JOIN t y ON y.b = printf('%08x', (x.a + 1) * 2654435761 & 4294967295); " +
      "SELECT count(*) FROM t WHERE b LIKE '%7f%' OR b GLOB '*a?c*'\"",
    result: "tr '\\n' ' ' </tmp/out",
  },
  {
    name: "xz",
    what: "xz -3 of 3 MiB",
    prepare: someCode,
    run: pack,
    result: "md5sum </tmp/code.xz",
  },
  {
    name: "unxz",
    what: "xz -d of the same",
    prepare: `[ -e /tmp/code.xz ] || { ${someCode}; ${pack}; }`,
    run: "/usr/bin/xz -dc /tmp/code.xz >/tmp/code.out",
    result: "cmp /tmp/code /tmp/code.out && echo same",
    expected: "same",
  },
];
