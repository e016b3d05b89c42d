// npm run bench [-- kvm] [-- options]: machines by default, KVM's engine where that is asked for.
await import(process.argv[2] === "kvm" ? "./kvm/main.ts" : "./run.ts");

export {};
