import { fn } from "../ir/builder.ts";
import { raise, Vector } from "./state.ts";

/** Through a task gate of the IDT: (gate, error code, whether it is pushed, RIP to save). */
export const taskGate = fn("taskGate", ["i64", "i32", "i32", "i64"], undefined, (f) => {
  raise(f, Vector.GP);
});

/** IRET with NT set: back to the task that the current TSS links to. */
export const returnFromTask = fn("returnFromTask", [], undefined, (f) => {
  raise(f, Vector.GP);
});
