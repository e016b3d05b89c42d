import type { CaseGroup } from "./case.ts";
import type { Guest } from "./guest.ts";
import { pagingCases } from "./paging-cases.ts";
import { protectedCases } from "./protected-cases.ts";
import { realCases } from "./real-cases.ts";

/** Groups that need a processor and memory only. */
export const processorGroups: readonly CaseGroup<Guest>[] = [realCases, protectedCases, pagingCases];
