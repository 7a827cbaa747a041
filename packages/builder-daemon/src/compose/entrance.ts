import { makeRunRoot } from '../config/run-root.js'
import { type Door, makeDoor } from '../rpc/listener.js'
import { type Lock, lockStore } from '../storage/lock.js'

/** What makes this process the daemon of its roots and its socket. */
export interface Entrance {
  /** Whoever connects waits there until the daemon serves. */
  readonly door: Door
  /** Gives up the door, then the locks; once is enough. */
  close(): void
}

export interface EntranceOptions {
  readonly dataRoot: string
  readonly runRoot: string
  readonly socket: string
  readonly group: string
}

/**
 * Takes the locks of both roots, then makes the socket, so that only a daemon that may run at all has one. Fails with
 * ISB_CONFIG_INVALID and ISB_ALREADY_EXISTS; nothing is held then.
 */
export function takeEntrance({ dataRoot, runRoot, socket, group }: EntranceOptions): Entrance {
  makeRunRoot(runRoot)
  const lock: Lock = lockStore({ dataRoot, runRoot }, process.pid)
  try {
    const door = makeDoor({ socketPath: socket, group })
    let isHeld = true
    return {
      door,
      close() {
        if (!isHeld) return
        isHeld = false
        door.close()
        lock.release()
      },
    }
  } catch (error) {
    lock.release()
    throw error
  }
}
