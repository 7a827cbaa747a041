import { closeSync } from 'node:fs'

/** The descriptor that bin/isula-build holds a turn with: a lock that ends with its last holder. */
const descriptor = 9
/** Milliseconds after which a start that waits for something (a person, standard input, a daemon) lets others go on. */
const patience = 500

let isHeld = process.env['ISULABUILD_TURN'] === `${process.pid}`
if (isHeld) {
  delete process.env['ISULABUILD_TURN']
  setTimeout(endTurn, patience).unref()
}

/**
 * Where many clients start at once, bin/isula-build lets them do so in turn. Called when the daemon has been asked, and
 * before a process is started that could inherit the descriptor.
 */
export function endTurn(): void {
  if (!isHeld) return
  isHeld = false
  closeSync(descriptor)
}
