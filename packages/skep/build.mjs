// What scripts/build.mjs adds to the bundle of this package's command.

/** Esbuild plugins for the command: KVM's engine by a plain import, so that it shares the command's error classes. */
export const commandPlugins = [
  {
    name: "kvm-entry",
    setup({ onLoad }) {
      onLoad({ filter: /[\\/]kvm-entry\.ts$/ }, () => ({
        contents: `export const importKvm = () => import("@skep/vcpu/kvm");`,
        loader: "ts",
      }));
    },
  },
];
