import type { RigScript } from "./case.ts";
import { conformanceCases } from "./conformance.ts";

export const conformanceVtx: RigScript = { name: "conformance", cases: conformanceCases({}) };
