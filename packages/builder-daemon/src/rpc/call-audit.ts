import { type Metadata, ServerInterceptingCall, type ServerInterceptor, status } from '@grpc/grpc-js'
import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { ErrorCode } from '@isula-build/shared/errors/codes.js'
import type { AuditFacts, AuditLog } from '../ports/audit.js'
import { factsOf, isAudited } from './audit-facts.js'
import type { Peer } from './peers.js'

/** What the audit log will hold of one call. */
export interface CallRecord {
  /** Adds to what is known; results are collected, the rest is replaced. */
  note(facts: AuditFacts): void
  /** Takes what the request says of itself; only the first one counts. */
  requested(message: unknown): void
  /** The call is over; `error` is what it failed with. */
  end(error?: { readonly reason: unknown }): void
}

export interface CallAudit {
  /** Sees the calls that gRPC ends by itself, before a handler or behind its back. */
  readonly interceptor: ServerInterceptor
  /** `metadata`: of the call, the very object. */
  begin(metadata: Metadata, path: string, peer: Peer): CallRecord
}

/** Results of one call that are kept; the log shows fewer. */
const maxResults = 1000

interface TransportView {
  readonly startedAt: number
  admitted: boolean
  /** Why gRPC ended the call. */
  refusal: ErrorCode | undefined
}

export function createCallAudit(
  log: AuditLog | undefined,
  peerOf: (peer: string) => Peer | undefined,
): CallAudit {
  const views = new WeakMap<Metadata, TransportView>()

  function write(path: string, peer: Peer, outcome: 'ok' | ErrorCode, startedAt: number, facts: AuditFacts) {
    // Whoever is refused is of interest whatever he asked for.
    if (log === undefined || (!isAudited(path) && outcome !== 'ISB_PERMISSION_DENIED')) return
    const { uid, gid, pid } = peer.caller
    const [service = '', method = ''] = path.slice(1).split('/')
    const ms = Math.round(performance.now() - startedAt)
    log.write({
      ...facts,
      uid,
      gid,
      pid,
      exe: peer.exe,
      connection: peer.connection,
      service,
      method,
      outcome,
      ms,
    })
  }

  return {
    interceptor: ({ path }, call) => {
      const view: TransportView = { startedAt: performance.now(), admitted: false, refusal: undefined }
      // gRPC's own refusals go straight to the call, past every interceptor's responder.
      const sendStatus = call.sendStatus.bind(call)
      call.sendStatus = (sent) => {
        view.refusal ??= refusalOf(sent.code ?? status.UNKNOWN, sent.details ?? '')
        const peer = view.admitted ? undefined : peerOf(call.getPeer())
        view.admitted = true
        if (peer !== undefined) write(path, peer, view.refusal, view.startedAt, {})
        sendStatus(sent)
      }
      return new ServerInterceptingCall(call, {
        start: (next) =>
          next({
            onReceiveMetadata(metadata, pass) {
              views.set(metadata, view)
              pass(metadata)
            },
          }),
      })
    },
    begin(metadata, path, peer) {
      const view = views.get(metadata)
      if (view !== undefined) view.admitted = true
      const startedAt = view?.startedAt ?? performance.now()
      const results: string[] = []
      let facts: AuditFacts | undefined
      return {
        note({ results: more = [], ...rest }) {
          facts = { ...facts, ...rest }
          results.push(...more.slice(0, maxResults - results.length))
        },
        requested(message) {
          facts ??= factsOf(path, message)
        },
        end(error) {
          const outcome = error === undefined ? 'ok' : outcomeOf(error.reason, view?.refusal)
          write(path, peer, outcome, startedAt, { ...facts, results })
        },
      }
    },
  }
}

function outcomeOf(error: unknown, refusal: ErrorCode | undefined): ErrorCode {
  const code = isBuilderError(error) ? error.code : 'ISB_INTERNAL'
  // To the handler, a call that gRPC refused looks as if its client had gone away.
  return code === 'ISB_CANCELLED' ? (refusal ?? code) : code
}

/** Statuses of @grpc/grpc-js itself as errors of ours. */
function refusalOf(code: number, details: string): ErrorCode {
  switch (code) {
    case status.RESOURCE_EXHAUSTED:
      return 'ISB_LIMIT_EXCEEDED'
    case status.CANCELLED:
    case status.DEADLINE_EXCEEDED:
      return 'ISB_CANCELLED'
    // No message, a second one, or one in an unknown compression.
    case status.UNIMPLEMENTED:
      return 'ISB_ARGUMENT_INVALID'
    default:
      return /^(Error deserializing|Failed to decompress|Invalid grpc-timeout)/.test(details)
        ? 'ISB_ARGUMENT_INVALID'
        : 'ISB_INTERNAL'
  }
}
