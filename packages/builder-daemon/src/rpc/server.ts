import { createServer, type Server as SocketServer } from 'node:net'
import { promisify } from 'node:util'
import { Server, ServerCredentials } from '@grpc/grpc-js'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { builderService } from '@isula-build/shared/rpc/builder.js'
import { controlService } from '@isula-build/shared/rpc/control.js'
import type { AuditLog } from '../ports/audit.js'
import type { Caller } from '../ports/caller.js'
import type { Logger } from '../ports/logger.js'
import type { Membership } from '../ports/membership.js'
import { type BoundService, implementation } from './adapter.js'
import { createCallAudit } from './call-audit.js'
import { type CallLimits, createCallGate } from './call-gate.js'
import { type Door, makeDoor } from './listener.js'
import { createPeers } from './peers.js'

export interface RpcLimits extends CallLimits {
  /** Bytes of one message, before and after decompression. */
  readonly messageBytes: number
  readonly connections: number
  readonly connectionsPerUid: number
  /** Calls at once on one connection. */
  readonly streamsPerConnection: number
  /** A peer that answers no ping for `keepaliveTimeoutMs` is dropped; one is sent each `keepaliveMs`. */
  readonly keepaliveMs: number
  readonly keepaliveTimeoutMs: number
}

export const defaultRpcLimits: RpcLimits = {
  messageBytes: 4 << 20,
  connections: 1024,
  connectionsPerUid: 128,
  streamsPerConnection: 100,
  callsPerUid: 512,
  uploadsPerUid: 128,
  keepaliveMs: 30_000,
  keepaliveTimeoutMs: 20_000,
}

export interface ServiceOptions {
  readonly services: readonly BoundService[]
  readonly log: Logger
  /** Without one, nothing is recorded. */
  readonly audit?: AuditLog
  /** Without one, what the kernel said of a connection holds for as long as it lasts. */
  readonly membership?: Membership
  readonly limits?: Partial<RpcLimits>
}

export interface RpcServerOptions extends ServiceOptions {
  readonly socketPath: string
  /** Name or number of the group that may connect; undefined leaves the daemon's own. */
  readonly group: string | number | undefined
}

export interface RpcServer {
  /**
   * Takes no new calls, waits up to `graceMs` for those under way, then aborts them with `reason`, by default
   * ISB_SHUTTING_DOWN. Later calls may only shorten the wait.
   */
  close(graceMs: number, reason?: BuilderError): Promise<void>
}

/** How long an aborted handler may take to give up its call. */
const abortMs = 5_000

/** How long those who waited for a start that failed may take to ask and to hear of it. */
const farewellMs = 1_000

/** Serves on a unix socket of its own. Fails with ISB_ALREADY_EXISTS and ISB_CONFIG_INVALID. */
export async function createRpcServer(options: RpcServerOptions): Promise<RpcServer> {
  const door = makeDoor(options)
  try {
    return await serveRpc(door, options)
  } catch (error) {
    door.close()
    throw error
  }
}

/** Serves whoever comes to the door, and first those who wait there. */
export async function serveRpc(door: Door, options: ServiceOptions): Promise<RpcServer> {
  return (await serve(door, options)).server
}

/**
 * For a start that failed: whoever waits at the door gets `reason` for an answer to whatever he asks, and nobody comes
 * after. Takes no longer than a moment, and none when nobody waits.
 */
export async function turnAway(door: Door, reason: BuilderError, log: Logger): Promise<void> {
  door.hide()
  if (!door.isWaitedAt()) return
  const refusing = [controlService, builderService].map((service): BoundService => {
    const refuse = (): never => {
      throw reason
    }
    return { service, handlers: Object.fromEntries(Object.keys(service).map((name) => [name, refuse])) }
  })
  const { server, sockets } = await serve(door, { services: refusing, log })
  const countConnections = promisify(sockets.getConnections.bind(sockets))
  const began = performance.now()
  while (performance.now() - began < farewellMs) {
    if (!door.isWaitedAt() && (await countConnections()) === 0) break
    await elapsed(10)
  }
  await server.close(0, reason)
}

async function serve(
  door: Door,
  options: ServiceOptions,
): Promise<{ readonly server: RpcServer; readonly sockets: SocketServer }> {
  const { log, membership } = options
  const limits = { ...defaultRpcLimits, ...options.limits }
  const gate = createCallGate(limits)
  const peers = createPeers(limits.connectionsPerUid, {
    unknown: (error) => log.warn('rpc.peer-unknown', { error }),
    tooMany: (uid) => log.warn('rpc.too-many-connections', { uid, limit: limits.connectionsPerUid }),
  })
  const audit = createCallAudit(options.audit, peers.peerOf)
  const admit = async (caller: Caller): Promise<Caller> =>
    membership === undefined ? caller : await membership.admit(caller, door.gid)
  const grpc = new Server({
    interceptors: [audit.interceptor],
    'grpc.max_receive_message_length': limits.messageBytes,
    'grpc.max_send_message_length': -1,
    'grpc.max_concurrent_streams': limits.streamsPerConnection,
    'grpc.keepalive_time_ms': limits.keepaliveMs,
    'grpc.keepalive_timeout_ms': limits.keepaliveTimeoutMs,
    'grpc-node.max_session_memory': 64,
    'grpc.enable_channelz': 0,
  })
  for (const bound of options.services) {
    grpc.addService(bound.service, implementation(bound, { gate, peerOf: peers.peerOf, admit, audit, log }))
  }
  const injector = grpc.createConnectionInjector(ServerCredentials.createInsecure())
  const sockets = createServer((socket) => {
    socket.on('error', (error) => log.debug('rpc.socket-error', { error }))
    if (peers.admit(socket)) injector.injectConnection(socket)
  })
  sockets.maxConnections = limits.connections
  sockets.on('drop', () => log.warn('rpc.too-many-connections', { limit: limits.connections }))
  await door.open(sockets)
  sockets.on('error', (error) => log.error('rpc.listener-error', { error }))
  log.info('rpc.listening', { socket: door.socketPath })

  const disconnected = new Promise<void>((resolve) => {
    sockets.once('close', resolve)
  })
  let closing: Promise<void> | undefined
  let hurry: (() => void) | undefined
  const close: RpcServer['close'] = (graceMs, reason) => {
    if (closing === undefined) {
      door.close()
      closing = drain(graceMs, reason ?? new BuilderError('ISB_SHUTTING_DOWN', 'the daemon is stopping'))
    } else setTimeout(() => hurry?.(), graceMs).unref()
    return closing
  }
  return { server: { close }, sockets }

  async function drain(graceMs: number, reason: BuilderError): Promise<void> {
    const left = gate.close()
    const hurried = new Promise<void>((resolve) => {
      hurry = resolve
    })
    await Promise.race([left, hurried, elapsed(graceMs)])
    gate.abortAll(reason)
    await Promise.race([left, elapsed(abortMs)])
    // The last statuses are still on their way to the sockets.
    injector.drain(abortMs)
    await Promise.race([disconnected, elapsed(1_000)])
    injector.destroy()
    grpc.forceShutdown()
  }
}

function elapsed(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms).unref()
  })
}
