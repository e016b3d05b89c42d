/**
 * KVM's engine needs Node and koffi. A bundler for browsers must not follow the name, so it is not written where an
 * import has it. The command is for Node: its build puts a plain import in this file's place (build.mjs).
 */
const KVM_ENTRY = "@skep/vcpu/kvm";

export const importKvm = (): Promise<typeof import("@skep/vcpu/kvm")> => import(/* @vite-ignore */ KVM_ENTRY);
