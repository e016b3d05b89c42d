import { fn } from "../ir/builder.ts";
export const deliverEvent = fn("deliverEvent", ["i32", "i32", "i32", "i32", "i64"], "i32", (f) => f.return(f.i32(1)));
