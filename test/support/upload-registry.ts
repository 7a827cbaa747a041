import { createHash } from 'node:crypto'
import type { ServerResponse } from 'node:http'
import { type SeenRequest, serveRegistry, type TestRegistry } from './registry-bench.js'

/** What a request meets instead of the honest registry. */
export interface UploadFault {
  readonly on: string
  /** How many of these requests; once if not said. */
  readonly times?: number
  /** Bytes that are still taken before the connection is reset. */
  readonly cut?: number
  /** Everything is done, and then the connection is reset in place of the answer. */
  readonly mute?: boolean
  readonly status?: number
  readonly code?: string
  readonly headers?: Readonly<Record<string, string>>
  /** The registry forgets the upload first. */
  readonly forget?: boolean
}

export interface UploadRegistry extends TestRegistry {
  readonly stored: ReadonlyMap<string, Buffer>
  /** `PATCH 100-299` for every body that came. */
  readonly bodies: readonly string[]
}

/** An upload server that keeps the distribution spec to the letter, but for its faults. */
export async function startUploadRegistry(
  faults: readonly UploadFault[],
  options: {
    readonly minimum?: number
    readonly ahead?: boolean
    readonly relative?: boolean
    /** Takes bodies that do not say how long they are, as Docker's registry does. */
    readonly streams?: boolean
  } = {},
): Promise<UploadRegistry> {
  const left = faults.map((fault) => ({ ...fault, times: fault.times ?? 1 }))
  const sessions = new Map<string, Buffer>()
  const stored = new Map<string, Buffer>()
  const bodies: string[] = []
  let moves = 0
  let tokens = 0
  let last = ''

  function location(id: string): Record<string, string> {
    moves += 1
    // Moves with every answer; what it held before is refused.
    last = `${id}.${moves}`
    const place = `/v2/team/app/blobs/uploads/${last}?_state=a%2Fb+${moves}`
    return {
      location: options.relative === true ? place : registry.origin + place,
      ...(options.minimum !== undefined && { 'oci-chunk-min-length': String(options.minimum) }),
    }
  }

  function refuse(
    response: ServerResponse,
    status: number,
    code: string,
    headers: Record<string, string> = {},
  ): void {
    response.writeHead(status, { 'content-type': 'application/json', ...headers })
    response.end(JSON.stringify({ errors: [{ code, message: `no: ${code}` }] }))
  }

  function rangeOf(bytes: Buffer): Record<string, string> {
    return { range: `0-${Math.max(0, bytes.length - 1)}` }
  }

  async function handle(request: SeenRequest, response: ServerResponse): Promise<void> {
    const { method, message } = request
    const url = new URL(request.path, 'http://x')
    const isToken = url.pathname === '/token'
    const fault = isToken ? undefined : left.find(({ on, times }) => on === method && times > 0)
    if (fault !== undefined) fault.times -= 1
    if (fault?.forget === true) sessions.clear()
    if (fault?.status !== undefined) {
      message.resume()
      const challenge = { 'www-authenticate': `Bearer realm="${registry.origin}/token",service="s"` }
      const headers = fault.status === 401 ? challenge : fault.headers
      return refuse(response, fault.status, fault.code ?? 'UNKNOWN', headers)
    }
    if (isToken) {
      tokens += 1
      response.end(JSON.stringify({ token: `t${tokens}` }))
      return
    }
    const digest = url.pathname.split('/').at(-1) ?? ''
    if (method === 'HEAD') {
      response.writeHead(stored.has(digest) ? 200 : 404).end()
      return
    }
    if (method === 'POST') {
      message.resume()
      const id = `u${sessions.size}-${moves}`
      sessions.set(id, Buffer.alloc(0))
      response.writeHead(202, location(id)).end()
      return
    }
    const [id = ''] = digest.split('.')
    const session = sessions.get(id)
    if (
      session === undefined ||
      digest !== last ||
      url.searchParams.get('_state')?.endsWith(` ${moves}`) !== true
    ) {
      message.resume()
      return refuse(response, 404, 'BLOB_UPLOAD_UNKNOWN')
    }
    if (method === 'GET') {
      response.writeHead(204, { ...location(id), ...rangeOf(session) }).end()
      return
    }
    const start = /^(\d+)-(\d+)$/.exec(request.headers['content-range'] ?? '')?.[1]
    const isStream = options.streams === true && request.headers['transfer-encoding'] === 'chunked'
    if (method === 'PATCH' && !isStream && Number(start) !== session.length) {
      message.resume()
      response.writeHead(416, { ...location(id), ...rangeOf(session) }).end()
      return
    }
    const chunks: Buffer[] = []
    let taken = 0
    const keep = (): Buffer => {
      const all = Buffer.concat([session, ...chunks])
      if (taken > 0) bodies.push(`${method} ${session.length}-${all.length - 1}`)
      sessions.set(id, all)
      return all
    }
    for await (const chunk of message as AsyncIterable<Buffer>) {
      chunks.push(chunk.subarray(0, (fault?.cut ?? Number.POSITIVE_INFINITY) - taken))
      taken += chunk.length
      if (fault?.cut !== undefined && taken >= fault.cut) {
        keep()
        message.socket.resetAndDestroy()
        return
      }
    }
    const all = keep()
    if (method === 'PATCH') {
      if (fault?.mute === true) message.socket.resetAndDestroy()
      else response.writeHead(202, { ...location(id), ...rangeOf(all) }).end()
      return
    }
    const asked = url.searchParams.get('digest') ?? ''
    sessions.delete(id)
    if (`sha256:${createHash('sha256').update(all).digest('hex')}` !== asked) {
      return refuse(response, 400, 'DIGEST_INVALID')
    }
    stored.set(asked, all)
    if (fault?.mute === true) message.socket.resetAndDestroy()
    else response.writeHead(201, { 'docker-content-digest': asked, location: `/v2/x` }).end()
  }

  const registry = await serveRegistry(handle)
  return {
    ...registry,
    seen: registry.seen,
    stored,
    bodies,
    [Symbol.asyncDispose]: registry[Symbol.asyncDispose],
  }
}
