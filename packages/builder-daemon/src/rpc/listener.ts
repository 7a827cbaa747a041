import { once } from 'node:events'
import {
  chmodSync,
  chownSync,
  closeSync,
  linkSync,
  lstatSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  type Stats,
  unlinkSync,
} from 'node:fs'
import type { Server } from 'node:net'
import { basename, dirname, join } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { bindSocket, hasWaiting, isListening, listenOn } from '../system/listening-sockets.js'
import { hasErrno } from '../system/system-error.js'

/** A socket that listens. Whoever connects waits in the kernel until a server takes the connections. */
export interface Door {
  readonly socketPath: string
  /** Of the socket file. */
  readonly gid: number
  /** Somebody waits to be let in. */
  isWaitedAt(): boolean
  /** Has `server` take the connections, those that wait first. */
  open(server: Server): Promise<void>
  /** Removes the socket file, if it still is the one made here; who has connected stays. */
  hide(): void
  /** Hides it and takes no more connections; those that still wait are broken off. */
  close(): void
}

export interface DoorOptions {
  readonly socketPath: string
  /** Name or number of the group that may connect; undefined leaves the daemon's own. */
  readonly group: string | number | undefined
}

/** Connections that wait to be taken; the kernel may allow fewer (net.core.somaxconn). */
const waitingRoom = 1024

/**
 * Listens on a unix socket with mode 0660 from the first moment anybody can reach it: it is made in a
 * directory nobody else may enter and linked to its place when owner and mode are right. A stale socket
 * of this user is replaced; anything else at the path is left alone. Fails with ISB_ALREADY_EXISTS and
 * ISB_CONFIG_INVALID.
 */
export function makeDoor({ socketPath, group }: DoorOptions): Door {
  const gid = group === undefined ? undefined : groupId(group)
  const workshop = makeWorkshop(socketPath)
  let fd: number
  try {
    removeStale(socketPath, lstatSync(workshop).uid)
    fd = listenIn(workshop, socketPath, gid)
  } catch (error) {
    if (error instanceof BuilderError) throw error
    throw hasErrno(error, 'EEXIST')
      ? taken(socketPath, 'something was put there meanwhile')
      : asConfigError(error, socketPath)
  } finally {
    rmSync(workshop, { recursive: true, force: true })
  }
  const made = lstatSync(socketPath)
  let server: Server | undefined
  let isClosed = false
  const hide = (): void => {
    const current = statOf(socketPath)
    if (current?.dev === made.dev && current.ino === made.ino) unlinkSync(socketPath)
  }
  return {
    ...{ socketPath, gid: made.gid, hide },
    isWaitedAt: () => !isClosed && hasWaiting(fd),
    async open(taking) {
      server = taking
      taking.listen({ fd, backlog: waitingRoom })
      await once(taking, 'listening')
    },
    close() {
      if (isClosed) return
      isClosed = true
      hide()
      // A server owns the descriptor it listens on.
      if (server === undefined) closeSync(fd)
      else server.close()
    },
  }
}

function listenIn(workshop: string, socketPath: string, gid: number | undefined): number {
  const draft = join(workshop, 's')
  // Longer than the socket's own path, the draft's may not fit into an address; this one always does.
  const directory = openSync(workshop, 'r')
  let fd: number
  try {
    fd = bindSocket(`/proc/self/fd/${directory}/s`)
  } finally {
    closeSync(directory)
  }
  try {
    chmodSync(draft, 0o660)
    if (gid !== undefined) chownSync(draft, lstatSync(draft).uid, gid)
    listenOn(fd, waitingRoom)
    linkSync(draft, socketPath)
    return fd
  } catch (error) {
    closeSync(fd)
    throw error
  }
}

function removeStale(socketPath: string, ownUid: number): void {
  const found = statOf(socketPath)
  if (found === undefined) return
  if (!found.isSocket()) throw taken(socketPath, 'it is no socket')
  if (found.uid !== ownUid) throw taken(socketPath, `it is a socket of user ${found.uid}`)
  if (isListening(socketPath)) throw taken(socketPath, 'another daemon listens there')
  unlinkSync(socketPath)
}

function statOf(path: string): Stats | undefined {
  return lstatSync(path, { throwIfNoEntry: false })
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

/** From /etc/group (group(5)). */
function groupId(group: string | number): number {
  if (typeof group === 'number') return group
  const fields = readFileSync('/etc/group', 'utf8')
    .split('\n')
    .map((line) => line.split(':'))
    .find(([name]) => name === group)
  const gid = Number(fields?.[2] ?? Number.NaN)
  if (Number.isInteger(gid)) return gid
  throw new BuilderError('ISB_CONFIG_INVALID', `no group ${JSON.stringify(group)}`, {
    hint: `Create it with \`groupadd ${group}\`, or set another \`group\` in configuration.toml.`,
  })
}
