/** Exit statuses of the `skep` command; with `--exec` a command's own takes their place. */
export const ExitStatus = {
  OK: 0,
  /** This machine cannot do it: no engine, no guest files, an error of skep's. */
  HOST_FAILURE: 1,
  /** Bad input: one line on stderr names the field, what was expected and what was given. */
  USAGE: 2,
  /** The guest crashed, panicked or stopped for good. */
  GUEST_FAILURE: 3,
} as const;
