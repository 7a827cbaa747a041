import { Agent, type AgentOptions, type ClientRequestArgs } from 'node:http'
import type { Duplex } from 'node:stream'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { connect, type Destination } from './connect.js'
import type { HttpLimits } from './limits.js'
import type { Zone } from './zones.js'

/** A keep-alive pool for one origin as one user may reach it. */
export interface Pool {
  readonly agent: Agent
  /** Where the other end of a socket of this pool is. */
  zoneOf(socket: Duplex): Zone
}

export interface Connections {
  /** `key` tells pools apart whose connections must not be shared. */
  pool(key: string, destination: Destination): Pool
  close(): void
}

/** Milliseconds an unused connection is kept. */
const rest = 15_000
const maxPools = 256

declare module 'node:http' {
  interface ClientRequestArgs {
    /** Ends the connecting of the one request that carries it. */
    connecting?: AbortSignal
  }
}

/** Connects as `connect` does, each request its own connection unless a free one is there. */
class PoolAgent extends Agent {
  readonly zones = new WeakMap<Duplex, Zone>()
  readonly #connecting = new Set<AbortController>()
  readonly #destination: Destination
  readonly #timeout: number

  constructor(destination: Destination, timeout: number, options: AgentOptions) {
    super(options)
    this.#destination = destination
    this.#timeout = timeout
  }

  override createConnection(
    options: ClientRequestArgs,
    done: (error: Error | null, socket: Duplex) => void,
  ): undefined {
    const ending = new AbortController()
    const end = () => ending.abort(options.connecting?.reason)
    options.connecting?.addEventListener('abort', end, { once: true })
    if (options.connecting?.aborted) end()
    this.#connecting.add(ending)
    connect(this.#destination, this.#timeout, ending.signal)
      .finally(() => this.#connecting.delete(ending))
      .then(
        ({ socket, zone }) => {
          this.zones.set(socket, zone)
          done(null, socket)
        },
        // Without a socket; the type of the callback knows success only.
        (error: Error) => (done as (error: Error) => void)(error),
      )
    return undefined
  }

  override destroy(): void {
    const reason = new BuilderError('ISB_SHUTTING_DOWN', 'the connections to registries are being closed')
    for (const ending of this.#connecting) ending.abort(reason)
    super.destroy()
  }
}

export function createConnections(limits: HttpLimits): Connections {
  const pools = new Map<string, PoolAgent>()
  return {
    pool(key, destination) {
      let agent = pools.get(key)
      pools.delete(key)
      agent ??= new PoolAgent(destination, limits.connect, {
        keepAlive: true,
        // Waiting happens in slots, where it is fair.
        maxSockets: Number.POSITIVE_INFINITY,
        maxFreeSockets: limits.connections,
        timeout: rest,
        scheduling: 'lifo',
      })
      // The map's order is that of use, so its first is the one not needed for longest.
      pools.set(key, agent)
      const [oldest] = pools
      if (pools.size > maxPools && oldest !== undefined) {
        pools.delete(oldest[0])
        for (const sockets of Object.values(oldest[1].freeSockets))
          for (const socket of sockets ?? []) socket.destroy()
      }
      const { zones } = agent
      return { agent, zoneOf: (socket) => zones.get(socket) ?? 'public' }
    },
    close() {
      for (const agent of pools.values()) agent.destroy()
      pools.clear()
    },
  }
}
