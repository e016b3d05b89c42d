import { engineConformance } from "@skep/vcpu/testing";
import { describe, it } from "vitest";
import { createSoftvtEngine } from "../src/index.ts";

engineConformance("softvt", createSoftvtEngine, { describe, it });
