import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Answer, Exchange, RequestBody } from '../http/exchange.js'
import { readRefusal } from './refusal.js'
import { nameOf, pushScope, repositoryPath, send, type Target } from './target.js'

/** An upload as the registry knows it (OCI distribution spec, "Pushing a blob in chunks"). */
export interface UploadSession {
  /** Where the next request goes; every answer may move it. */
  readonly location: URL
  /** Bytes that the registry says it has. */
  readonly offset: number
  /** The shortest piece it takes, but for the last one (`OCI-Chunk-Min-Length`). */
  readonly minimum: number
}

export type UploadRequest = Pick<Exchange, 'method' | 'headers' | 'body' | 'expect' | 'repeat' | 'work'> & {
  readonly target: string | URL
  /** Repository that a blob is mounted from. */
  readonly mountFrom?: string
}

const maxRedirects = 10
/** Answers that mean there is no such upload, or nothing to ask about it. */
const forgotten = [400, 404, 405, 409, 410, 416, 501]

/** Like `send`, and follows 307 and 308, which keep method and body. */
export async function sendUpload(target: Target, request: UploadRequest, what: string): Promise<Answer> {
  const { mountFrom, ...rest } = request
  let to = request.target
  for (let hop = 0; hop <= maxRedirects; hop++) {
    const exchange: Exchange = {
      ...rest,
      target: to,
      scope: pushScope(target.endpoint, mountFrom),
      expect: [...request.expect, 307, 308],
    }
    const answer = await send(target, exchange, what)
    if (answer.status !== 307 && answer.status !== 308) return answer
    await answer.discard()
    to = locationOf(answer, what)
  }
  throw new BuilderError('ISB_REGISTRY_UNAVAILABLE', `${what}: redirected more than ${maxRedirects} times`)
}

/** Begins an upload; nothing is sent yet. */
export async function beginUpload(target: Target, what: string): Promise<UploadSession> {
  const answer = await sendUpload(
    target,
    {
      ...{ method: 'POST', expect: [202], repeat: 'safe', body: emptyBody },
      target: repositoryPath(target.endpoint, 'blobs/uploads/'),
    },
    what,
  )
  await answer.discard()
  return sessionOf(answer, undefined, 0, what)
}

/**
 * How far the registry has come; undefined when it does not know the upload (any more). A single byte is taken for none
 * (see `acknowledged`): when it is sent twice, the digest tells.
 */
export async function askUpload(
  target: Target,
  session: UploadSession,
  what: string,
): Promise<UploadSession | undefined> {
  const request = { method: 'GET', target: session.location, repeat: 'safe' } as const
  const answer = await sendUpload(target, { ...request, expect: [204, 200, 202, ...forgotten] }, what)
  if (answer.status >= 400) {
    await readRefusal(answer)
    return undefined
  }
  await answer.discard()
  return sessionOf(answer, session, acknowledged(answer.headers['range'], 0), what)
}

/** The session after an answer: `offset` unless it is told by the caller otherwise, and the place to go on. */
export function sessionOf(
  answer: Answer,
  before: UploadSession | undefined,
  offset: number,
  what: string,
): UploadSession {
  const { location, 'oci-chunk-min-length': minimum = '' } = answer.headers
  const next = location === undefined && before !== undefined ? before.location : locationOf(answer, what)
  return {
    location: next,
    offset,
    minimum: /^\d{1,15}$/.test(minimum) ? Number(minimum) : (before?.minimum ?? 0),
  }
}

/**
 * Bytes that a Range header of an upload speaks of (`0-1023`); without one `expected`. Registries say `0-0` of one byte
 * and of none: it is one where one is expected.
 */
export function acknowledged(range: string | undefined, expected: number): number {
  const end = /^(?:bytes[ =])?0-(\d{1,15})$/.exec(range?.trim() ?? '')?.[1]
  if (end === undefined) return expected
  return end === '0' ? Math.min(expected, 1) : Number(end) + 1
}

/** The registry's own URL with the digest behind everything it holds already, untouched: it may be signed. */
export function withDigest(location: URL, digest: string): URL {
  const url = new URL(location)
  url.search = `${url.search === '' ? '?' : `${url.search}&`}digest=${encodeURIComponent(digest)}`
  return url
}

export const emptyBody: RequestBody = {
  size: 0,
  open: () => ({
    [Symbol.asyncIterator]: () => ({ next: () => Promise.resolve({ done: true, value: undefined }) }),
  }),
}

function locationOf(answer: Answer, what: string): URL {
  const { location } = answer.headers
  if (location === undefined || !URL.canParse(location, answer.url.href)) {
    const said = location === undefined ? 'no Location' : 'a Location that is no URL'
    throw new BuilderError('ISB_REGISTRY_UNAVAILABLE', `${what}: the registry answered with ${said}`)
  }
  const url = new URL(location, answer.url)
  url.hash = ''
  // A registry behind a proxy that ends TLS may not know that it is spoken to by https.
  if (url.host === answer.url.host && answer.url.protocol === 'https:') url.protocol = 'https:'
  return url
}

export function uploadTitle({ endpoint }: Target, digest: string): string {
  return `upload of blob ${digest} to ${nameOf(endpoint)}`
}
