/**
 * Lets everything else that waits for this thread go first. For loops that a user may make long: other calls are
 * answered in between.
 */
export function giveWay(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}
