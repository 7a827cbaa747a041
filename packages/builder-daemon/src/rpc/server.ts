import { readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { Server, ServerCredentials } from '@grpc/grpc-js'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { AuditLog } from '../ports/audit.js'
import type { Caller } from '../ports/caller.js'
import type { Logger } from '../ports/logger.js'
import type { Membership } from '../ports/membership.js'
import { type BoundService, implementation } from './adapter.js'
import { createCallAudit } from './call-audit.js'
import { type CallLimits, createCallGate } from './call-gate.js'
import { listenUnix } from './listener.js'
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

export interface RpcServerOptions {
  readonly socketPath: string
  /** Name or number of the group that may connect; undefined leaves the daemon's own. */
  readonly group: string | number | undefined
  readonly services: readonly BoundService[]
  readonly log: Logger
  /** Without one, nothing is recorded. */
  readonly audit?: AuditLog
  /** Without one, what the kernel said of a connection holds for as long as it lasts. */
  readonly membership?: Membership
  readonly limits?: Partial<RpcLimits>
}

export interface RpcServer {
  /**
   * Takes no new calls, waits up to `graceMs` for those under way, then aborts them with
   * ISB_SHUTTING_DOWN. Later calls may only shorten the wait.
   */
  close(graceMs: number): Promise<void>
}

/** How long an aborted handler may take to give up its call. */
const abortMs = 5_000

/** Serves on a unix socket. Fails with ISB_ALREADY_EXISTS and ISB_CONFIG_INVALID. */
export async function createRpcServer(options: RpcServerOptions): Promise<RpcServer> {
  const { log, membership } = options
  const gid = options.group === undefined ? undefined : groupId(options.group)
  const limits = { ...defaultRpcLimits, ...options.limits }
  const gate = createCallGate(limits)
  const peers = createPeers(limits.connectionsPerUid, {
    unknown: (error) => log.warn('rpc.peer-unknown', { error }),
    tooMany: (uid) => log.warn('rpc.too-many-connections', { uid, limit: limits.connectionsPerUid }),
  })
  const audit = createCallAudit(options.audit, peers.peerOf)
  const admit = async (caller: Caller): Promise<Caller> =>
    membership === undefined ? caller : await membership.admit(caller, gid)
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
  const listener = await listenUnix(sockets, {
    socketPath: options.socketPath,
    gid,
  })
  sockets.on('error', (error) => log.error('rpc.listener-error', { error }))
  log.info('rpc.listening', { socket: options.socketPath })

  const disconnected = new Promise<void>((resolve) => {
    sockets.once('close', resolve)
  })
  let closing: Promise<void> | undefined
  let hurry: (() => void) | undefined
  return {
    close(graceMs) {
      if (closing === undefined) {
        listener.close()
        closing = drain(graceMs)
      } else setTimeout(() => hurry?.(), graceMs).unref()
      return closing
    },
  }

  async function drain(graceMs: number): Promise<void> {
    const left = gate.close()
    const hurried = new Promise<void>((resolve) => {
      hurry = resolve
    })
    await Promise.race([left, hurried, elapsed(graceMs)])
    gate.abortAll(new BuilderError('ISB_SHUTTING_DOWN', 'the daemon is stopping'))
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
