import { statSync } from 'node:fs'
import { createConnection, type Socket } from 'node:net'
import { resolve } from 'node:path'
import { maxChunk } from '@isula-build/shared/rpc/build-messages.js'
import { warnLine } from '../terminal.js'
import { buildError } from './build-inputs.js'

/** `ID[=SOCKET]`: the agent's socket, by default the one of SSH_AUTH_SOCK. */
export function agentSocket(
  text: string,
  environment: Readonly<Record<string, string | undefined>>,
): { readonly id: string; readonly socket: string } {
  const equals = text.indexOf('=')
  const id = equals === -1 ? text : text.slice(0, equals)
  if (id === '') throw buildError(`ssh agent ${JSON.stringify(text)} has no id, expected ID[=SOCKET]`)
  const given = equals === -1 ? '' : text.slice(equals + 1)
  const path = given === '' ? environment['SSH_AUTH_SOCK'] : resolve(given)
  if (path === undefined || path === '') {
    throw buildError(`ssh agent ${id}: SSH_AUTH_SOCK is not set`, 'ISB_ARGUMENT_INVALID')
  }
  const stat = statSync(path, { throwIfNoEntry: false })
  if (stat === undefined) {
    throw buildError(`ssh agent ${id}: stat ${path}: no such file or directory`, 'ISB_PATH_NOT_FOUND')
  }
  if (!stat.isSocket()) {
    throw buildError(`ssh agent ${id}: ${path} is not the socket of an agent; add keys to one with ssh-add`)
  }
  return { id, socket: path }
}

/** One frame of a forwarded connection. */
export interface AgentFrame {
  readonly agent: string
  readonly connection: number
  readonly data: Uint8Array
  readonly end: boolean
}

/** Connects what the daemon opens to the agents of this machine. */
export class AgentForwarder implements Disposable {
  private readonly connections = new Map<number, Socket>()
  /** Closed on this side; the daemon's last frames for them are on their way. */
  private readonly closed = new Set<number>()

  constructor(
    /** Id to socket. */
    private readonly agents: ReadonlyMap<string, string>,
    private readonly send: (frame: AgentFrame) => Promise<unknown>,
  ) {}

  /** Resolves when the next frame may come. */
  async receive({ agent, connection, data, end }: AgentFrame): Promise<void> {
    if (this.closed.has(connection)) {
      if (end) this.closed.delete(connection)
      return
    }
    const socket = this.connections.get(connection) ?? this.dial(agent, connection)
    if (data.length > 0 && !socket.write(data)) await drained(socket)
    if (end) {
      this.connections.delete(connection)
      socket.destroy()
    }
  }

  private dial(agent: string, connection: number): Socket {
    const path = this.agents.get(agent)
    if (path === undefined) throw new Error(`the daemon asked for an unknown ssh agent "${agent}"`)
    const socket = createConnection(path)
    this.connections.set(connection, socket)
    socket.on('error', ({ message }) => warnLine(`ssh agent ${agent}: ${message}`))
    socket.on('data', (data: Buffer) => {
      socket.pause()
      void this.sendData({ agent, connection, data, end: false }).then(() => socket.resume())
    })
    socket.once('close', () => {
      // The daemon knows already what it has closed itself.
      if (!this.connections.delete(connection)) return
      this.closed.add(connection)
      void this.send({ agent, connection, data: new Uint8Array(), end: true })
    })
    return socket
  }

  private async sendData(frame: AgentFrame): Promise<void> {
    for (let at = 0; at < frame.data.length; at += maxChunk) {
      await this.send({ ...frame, data: frame.data.subarray(at, at + maxChunk) })
    }
  }

  [Symbol.dispose](): void {
    const sockets = [...this.connections.values()]
    this.connections.clear()
    for (const socket of sockets) socket.destroy()
  }
}

function drained(socket: Socket): Promise<void> {
  return new Promise((done) => {
    const settle = (): void => {
      socket.removeListener('drain', settle)
      socket.removeListener('close', settle)
      done()
    }
    socket.once('drain', settle)
    socket.once('close', settle)
  })
}
