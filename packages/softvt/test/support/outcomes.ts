/** Short names for what one instruction on a `Machine` (machine.ts) is given and how it ends. */
export const RAX = 0;
export const RCX = 1;
export const RDX = 2;
export const RBX = 3;
export const RSP = 4;
export const RSI = 6;
export const RDI = 7;

export const done = { kind: "done" };
export const fault = (vector: number, error?: number) => ({ kind: "fault", vector, error });
export const exit = (reason: number) => ({ kind: "exit", reason });
export const UD = fault(6);
export const GP = fault(13, 0);
