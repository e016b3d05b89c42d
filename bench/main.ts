// npm run bench [-- PART] [-- options]: machines by default; KVM's engine, Debian's programs, or a look at their regions.
const PARTS: Readonly<Record<string, string>> = {
  kvm: "./kvm/main.ts",
  programs: "./programs/main.ts",
  "programs-profile": "./programs/profile.ts",
};
await import(PARTS[process.argv[2] ?? ""] ?? "./run.ts");

export {};
