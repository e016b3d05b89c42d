// Runs a guest that never exits, and ends the process with status 7 while it is in there.
import { createKvmEngine } from "@skep/vcpu/kvm";
import { KvmMachine } from "@skep/vcpu/kvm/testing";

const machine = await KvmMachine.create(createKvmEngine());
// again: inc dword ptr [0x3000]; jmp again
machine.start("real", Uint8Array.of(0x66, 0xff, 0x06, 0x00, 0x30, 0xeb, 0xf9));
void machine.vm.run();
await machine.changed(0x3000, 0);
process.exit(7);
