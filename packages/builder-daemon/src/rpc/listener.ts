import { once } from 'node:events'
import {
  chmodSync,
  chownSync,
  closeSync,
  linkSync,
  lstatSync,
  mkdtempSync,
  openSync,
  rmSync,
  type Stats,
  unlinkSync,
} from 'node:fs'
import { connect, type Server } from 'node:net'
import { basename, dirname, join } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { hasErrno } from '../system/system-error.js'

export interface Listener {
  /** Stops accepting and removes the socket, if it still is the one made here. */
  close(): void
}

export interface ListenerOptions {
  readonly socketPath: string
  /** Group of the socket file; undefined leaves the daemon's own. */
  readonly gid: number | undefined
}

/**
 * Listens on a unix socket with mode 0660 from the first moment anybody can reach it: it is made in a
 * directory nobody else may enter and linked to its place when owner and mode are right. A stale socket
 * of this user is replaced; anything else at the path is left alone. Fails with ISB_ALREADY_EXISTS and
 * ISB_CONFIG_INVALID.
 */
export async function listenUnix(server: Server, options: ListenerOptions): Promise<Listener> {
  const { socketPath, gid } = options
  const workshop = makeWorkshop(socketPath)
  const draft = join(workshop, 's')
  // Longer than the socket's own path, the draft's may not fit into an address; this one always does.
  const directory = openSync(workshop, 'r')
  // Closing unlinks the path that was bound, so the descriptor in it must still be this directory's.
  const close = (): void => {
    server.close()
    closeSync(directory)
  }
  try {
    await removeStale(socketPath, lstatSync(workshop).uid)
    server.listen(`/proc/self/fd/${directory}/s`)
    await once(server, 'listening')
    chmodSync(draft, 0o660)
    if (gid !== undefined) chownSync(draft, lstatSync(draft).uid, gid)
    linkSync(draft, socketPath)
  } catch (error) {
    close()
    if (error instanceof BuilderError) throw error
    throw hasErrno(error, 'EEXIST')
      ? taken(socketPath, 'something was put there meanwhile')
      : asConfigError(error, socketPath)
  } finally {
    rmSync(workshop, { recursive: true, force: true })
  }
  const made = lstatSync(socketPath)
  return {
    close() {
      close()
      const current = statOf(socketPath)
      if (current !== undefined && current.dev === made.dev && current.ino === made.ino)
        unlinkSync(socketPath)
    },
  }
}

async function removeStale(socketPath: string, ownUid: number): Promise<void> {
  const found = statOf(socketPath)
  if (found === undefined) return
  if (!found.isSocket()) throw taken(socketPath, 'it is no socket')
  if (found.uid !== ownUid) throw taken(socketPath, `it is a socket of user ${found.uid}`)
  if (await answers(socketPath)) throw taken(socketPath, 'another daemon listens there')
  unlinkSync(socketPath)
}

function statOf(path: string): Stats | undefined {
  return lstatSync(path, { throwIfNoEntry: false })
}

/** A socket whose listener is gone refuses connections. */
async function answers(socketPath: string): Promise<boolean> {
  const probe = connect(socketPath)
  try {
    await once(probe, 'connect')
    return true
  } catch (error) {
    if (hasErrno(error, 'ECONNREFUSED')) return false
    throw asConfigError(error, socketPath)
  } finally {
    probe.destroy()
  }
}

function makeWorkshop(socketPath: string): string {
  try {
    return mkdtempSync(join(dirname(socketPath), `.${basename(socketPath).slice(0, 16)}-`))
  } catch (error) {
    throw asConfigError(error, socketPath)
  }
}

function taken(socketPath: string, why: string): BuilderError {
  return new BuilderError('ISB_ALREADY_EXISTS', `cannot listen on ${socketPath}: ${why}`, {
    hint: `Stop the other daemon, or remove ${socketPath} if nothing needs it.`,
  })
}

function asConfigError(error: unknown, socketPath: string): BuilderError {
  const reason = error instanceof Error ? error.message : String(error)
  return new BuilderError('ISB_CONFIG_INVALID', `cannot listen on ${socketPath}: ${reason}`, { cause: error })
}
