import { chmodSync, chownSync, closeSync, mkdirSync, openSync, rmSync } from 'node:fs'
import { createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import type { AgentSocketOwner, AgentSockets } from '../core/solve/environment.js'
import type { Logger } from '../ports/logger.js'
import type { AgentConnection, BuildClient } from '../rpc/handlers.js'

export interface BuildAgents extends AgentSockets, AsyncDisposable {}

export interface AgentCall {
  /** Of this build alone; made when the first socket is. */
  readonly directory: string
  readonly ids: readonly string[]
  readonly client: Pick<BuildClient, 'openAgent'>
  readonly log: Logger
}

interface AgentSocket {
  readonly path: string
  readonly close: () => void
}

/** At once, for one socket: a RUN cannot use up the daemon's descriptors. */
const maxConnections = 32

/** Sockets of one build whose connections are forwarded to the agents of its client. */
export function createAgentSockets({ directory, ids, client, log }: AgentCall): BuildAgents {
  const listening = new Map<string, Promise<AgentSocket>>()
  const connections = new Set<Socket>()

  function accept(id: string, socket: Socket): void {
    connections.add(socket)
    socket.once('close', () => connections.delete(socket))
    // The reader of the socket gets the error too; without a listener it would end the daemon.
    socket.on('error', () => undefined)
    forward(socket, client.openAgent(id)).catch((error: unknown) => {
      log.debug('agent.lost', { agent: id, error })
      socket.destroy()
    })
  }

  async function listen(id: string, owner: AgentSocketOwner, name: string): Promise<AgentSocket> {
    mkdirSync(directory, { recursive: true, mode: 0o700 })
    const server = createServer((socket) => accept(id, socket))
    server.maxConnections = maxConnections
    // An address has room for little more than 100 bytes, whatever the run root is called. Closing the
    // server removes it by this name, so the descriptor stays until then.
    const fd = openSync(directory, 'r')
    try {
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject)
        server.listen(`/proc/self/fd/${fd}/${name}`, resolve)
      })
    } catch (error) {
      closeSync(fd)
      throw error
    }
    server.on('error', (error) => log.warn('agent.refused', { agent: id, error }))
    const path = join(directory, name)
    chownSync(path, owner.uid, owner.gid)
    chmodSync(path, owner.mode)
    return { path, close: () => server.close(() => closeSync(fd)) }
  }

  return {
    async open(id, owner) {
      if (!ids.includes(id)) return undefined
      const key = `${id}\0${owner.mode}\0${owner.uid}\0${owner.gid}`
      let socket = listening.get(key)
      if (socket === undefined) {
        socket = listen(id, owner, String(listening.size))
        listening.set(key, socket)
      }
      return (await socket).path
    },
    async [Symbol.asyncDispose]() {
      for (const socket of connections) socket.destroy()
      for (const entry of await Promise.allSettled(listening.values())) {
        if (entry.status === 'fulfilled') entry.value.close()
      }
      rmSync(directory, { recursive: true, force: true })
    },
  }
}

/** Passes bytes both ways until either side has ended. */
async function forward(socket: Socket, agent: AgentConnection): Promise<void> {
  const toAgent = async (): Promise<void> => {
    for await (const data of socket) await agent.send(data as Buffer)
  }
  const toSocket = async (): Promise<void> => {
    for await (const data of agent.received) {
      if (!socket.write(data)) await drained(socket)
      if (socket.destroyed) return
    }
    socket.end()
  }
  const either = [toAgent(), toSocket()]
  try {
    await Promise.race(either)
  } finally {
    await Promise.allSettled([agent.close(), new Promise<void>((resolve) => socket.end(resolve))])
    socket.destroy()
    await Promise.allSettled(either)
  }
}

function drained(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      socket.removeListener('drain', done)
      socket.removeListener('close', done)
      resolve()
    }
    socket.once('drain', done)
    socket.once('close', done)
  })
}
