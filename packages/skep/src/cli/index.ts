#!/usr/bin/env node
import { main } from "./main.ts";

// process.exit would cut off output that a pipe has not taken yet; what holds the loop open is let go.
process.exitCode = await main(process.argv.slice(2));
process.stdin.unref?.();
