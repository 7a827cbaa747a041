import type { RegistryAccess } from '../../ports/registry.js'

/** What a request needs to be allowed to do (Docker token authentication, `repository:<name>:<actions>`). */
export interface Scope {
  readonly repository: string
  readonly actions: 'pull' | 'pull,push'
  /** Also pull here: the source of a mount. */
  readonly mountFrom?: string | undefined
}

/** A body that can be sent again from its start when the request is repeated, if its size is known. */
export interface RequestBody {
  /** undefined: nobody knows yet, and it may be opened once only. */
  readonly size: number | undefined
  /** Chunks of any length, `size` bytes in all. One is valid until the one after the next is asked for. */
  readonly open: () => AsyncIterable<Uint8Array>
}

export interface Exchange {
  readonly method: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
  /** Absolute, or relative to the root of the endpoint (`/v2/…`). */
  readonly target: string | URL
  /** Lower-case names. Authorization is set by the client, never here. */
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: RequestBody | undefined
  readonly scope: Scope | undefined
  /** Statuses that are answers; any other one, after redirects, authentication and retries, is an error. */
  readonly expect: readonly number[]
  /**
   * How often the same request may be sent again when it failed for a reason that may pass (408, 429, 5xx, connection
   * lost before a complete answer head): `safe` as often as `access` says; `once`: never, the caller knows better how
   * to go on (PATCH, PUT of an upload); `reconnect`: only when a kept connection turns out to be closed. Sending it again
   * after a refreshed token is allowed to all.
   */
  readonly repeat: 'safe' | 'once' | 'reconnect'
  /** Bytes that the server goes through before it can answer, where the body is not all of them. */
  readonly work?: number | undefined
}

export interface Answer {
  readonly status: number
  /** Lower-case names; of repeated headers the values joined by `, `. */
  readonly headers: Readonly<Record<string, string>>
  /** After redirects: what `Location` and `Link` are relative to. */
  readonly url: URL
  /**
   * The body, decoded of nothing (a Content-Encoding that was not asked for is an error). Ends early with an
   * ISB_REGISTRY_UNAVAILABLE when the connection breaks or nothing comes for the idle time. Leaving it unread closes
   * the connection.
   */
  readonly body: AsyncIterable<Uint8Array>
  /** The whole body; fails with ISB_LIMIT_EXCEEDED for more than `limit` bytes. */
  bytes(limit: number): Promise<Buffer>
  /** Reads a short rest so that the connection can serve again, or closes it. */
  discard(): Promise<void>
}

/** The root a request is relative to: scheme is decided here (https; http where it is insecure or loopback and https is not spoken). */
export interface Origin {
  readonly host: string
  readonly insecure: boolean
}

/**
 * Requests to registries with everything that is the same for all of them: TLS with certs.d, proxies, connection
 * limits per host, time-outs, redirects, authentication, retries. Composed of small wrappers.
 */
export interface RegistryHttp {
  send(origin: Origin, exchange: Exchange, context: HttpContext): Promise<Answer>
  close(): void
}

export interface HttpContext {
  readonly access: RegistryAccess
  readonly signal: AbortSignal
  /** For messages: what was being done, e.g. `manifest 1.36 of docker.io/library/busybox`. */
  readonly what: string
  /** Told of long waits: one line for the user. */
  readonly onNotice?: ((line: string) => void) | undefined
}
