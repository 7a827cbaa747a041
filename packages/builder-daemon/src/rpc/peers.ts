import { closeSync, readlinkSync } from 'node:fs'
import type { Socket } from 'node:net'
import type { Caller } from '../ports/caller.js'
import { pidfdSendSignal } from '../system/processes.js'
import { peerCredentials, peerGroups, peerPidfd } from '../system/sockets.js'

/** The other end of one connection. */
export interface Peer {
  readonly caller: Caller
  /** Counted from the start of the daemon. */
  readonly connection: number
  /** Path of the program that connected, for the record only; undefined when it cannot be seen. */
  readonly exe: string | undefined
}

export interface Peers {
  /**
   * Reads who is at the other end and names the connection after it, or destroys it: without
   * credentials, and above the limit of its user. True when it may be served.
   */
  admit(socket: Socket): boolean
  /** `peer` as `getPeer()` of a call gives it. */
  peerOf(peer: string): Peer | undefined
}

export interface PeerEvents {
  /** The connection has no credentials. */
  readonly unknown: (error: unknown) => void
  readonly tooMany: (uid: number) => void
}

export function createPeers(connectionsPerUid: number, events: PeerEvents): Peers {
  const peers = new Map<string, Peer>()
  const connections = new Map<number, number>()
  let last = 0

  return {
    admit(socket) {
      let caller: Caller
      try {
        caller = identify(socket)
      } catch (error) {
        events.unknown(error)
        socket.destroy()
        return false
      }
      const { uid } = caller
      const count = connections.get(uid) ?? 0
      if (count >= connectionsPerUid) {
        events.tooMany(uid)
        socket.destroy()
        return false
      }
      connections.set(uid, count + 1)
      const port = ++last
      const address = `peer-${port}`
      // A unix socket has no address, so the one that gRPC shows its handlers is ours to choose.
      Object.defineProperty(socket, 'remoteAddress', { get: () => address })
      Object.defineProperty(socket, 'remotePort', { get: () => port })
      const key = `${address}:${port}`
      peers.set(key, { caller, connection: port, exe: programOf(caller.pid) })
      socket.once('close', () => {
        peers.delete(key)
        const left = (connections.get(uid) ?? 1) - 1
        if (left === 0) connections.delete(uid)
        else connections.set(uid, left)
      })
      return true
    },
    peerOf: (peer) => peers.get(peer),
  }
}

function identify(socket: Socket): Caller {
  const fd = descriptorOf(socket)
  const { uid, gid, pid } = peerCredentials(fd)
  return { uid, gid, pid, groups: peerGroups(fd), sameMountNamespace: sharesMounts(fd, pid) }
}

/** Node keeps the descriptor of a socket on its private handle; there is no public way to it. */
function descriptorOf(socket: Socket): number {
  const handle: unknown = Reflect.get(socket, '_handle')
  const fd: unknown = typeof handle === 'object' && handle !== null ? Reflect.get(handle, 'fd') : undefined
  if (typeof fd !== 'number' || fd < 0) throw new Error('the socket has no descriptor')
  return fd
}

/**
 * False also for a peer that is gone or not ours to look at: then nothing is assumed about its paths. A connection may
 * have waited for long, so that the number is another process's by now; older kernels do not tell.
 */
function sharesMounts(fd: number, pid: number): boolean {
  if (pid <= 0) return false
  let process: number | undefined
  try {
    process = peerPidfd(fd)
    const isShared = readlinkSync(`/proc/${pid}/ns/mnt`) === readlinkSync('/proc/self/ns/mnt')
    return isShared && (process === undefined || pidfdSendSignal(process, 0))
  } catch {
    return false
  } finally {
    if (process !== undefined) closeSync(process)
  }
}

function programOf(pid: number): string | undefined {
  if (pid <= 0) return undefined
  try {
    return readlinkSync(`/proc/${pid}/exe`)
  } catch {
    return undefined
  }
}
