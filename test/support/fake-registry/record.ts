import type { IncomingHttpHeaders } from 'node:http'

/** One request as the registry saw it. */
export interface RecordedRequest {
  readonly method: string
  readonly path: string
  readonly query: URLSearchParams
  readonly headers: IncomingHttpHeaders
  /** performance.now() when its head was here, and when the exchange was over. */
  readonly began: number
  ended: number | undefined
  /** Bytes of its body that came. */
  received: number
  /** Undefined: never answered. */
  status: number | undefined
  /** Bytes of the answer's body that were given to the connection. */
  sent: number
  /** Who it was, when there is authentication. */
  user: string | undefined
  /** Index of its connection. */
  readonly connection: number
}

export type Match =
  | ((request: RecordedRequest) => boolean)
  | {
      readonly method?: string | readonly string[]
      /** Of the path without its query. */
      readonly path?: RegExp
    }

export function isMatch(match: Match, request: RecordedRequest): boolean {
  if (typeof match === 'function') return match(request)
  const { method, path } = match
  const methods = method === undefined || typeof method === 'string' ? [method ?? request.method] : method
  return methods.includes(request.method) && (path === undefined || path.test(request.path))
}

/** Paths of the protocol, for `match`. */
export const paths = {
  api: /^\/v2\/$/,
  manifest: /^\/v2\/.+\/manifests\/[^/]+$/,
  blob: /^\/v2\/.+\/blobs\/sha256:[^/]+$/,
  uploads: /^\/v2\/.+\/blobs\/uploads\/$/,
  upload: /^\/v2\/.+\/blobs\/uploads\/[^/]+$/,
  tags: /^\/v2\/.+\/tags\/list$/,
  token: /^\/token$/,
}
