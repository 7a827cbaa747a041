import { shown } from './error-text.js'
import { NoAnswer } from './no-answer.js'
import { trustHint } from './trusted-hosts.js'

const statuses: ReadonlySet<number> = new Set([301, 302, 303, 307, 308])
const most = 10

export interface Hop<T> {
  readonly status: number
  readonly location: string | undefined
  readonly url: URL
  readonly reply: T
}

export interface FollowOptions<T> {
  readonly first: URL
  /** `trusted`: no other origin was visited, so Authorization may be sent. */
  readonly send: (url: URL, trusted: boolean) => Promise<Hop<T>>
  /** Ends a redirect that is followed. */
  readonly discard: (reply: T) => Promise<void>
  /** Statuses that are answers even if they redirect. */
  readonly wanted: readonly number[]
  /** From https to http, to this URL. */
  readonly mayDowngrade: (to: URL) => boolean
}

/** Follows redirects of GET and HEAD, the method kept. Fails with NoAnswer after ten of them, or for one it may not follow. */
export async function following<T>({
  first,
  send,
  discard,
  wanted,
  mayDowngrade,
}: FollowOptions<T>): Promise<T> {
  let url = first
  let trusted = true
  for (let count = 0; ; count++) {
    const { status, location, reply } = await send(url, trusted)
    if (wanted.includes(status) || !statuses.has(status) || location === undefined) return reply
    await discard(reply)
    if (count === most) throw new NoAnswer(`it redirects more than ${most} times`, { transient: false })
    const next = redirection(url, location)
    if (url.protocol === 'https:' && next.protocol === 'http:' && !mayDowngrade(next))
      throw downgrade(next, first)
    trusted &&= next.origin === url.origin
    url = next
  }
}

function redirection(from: URL, location: string): URL {
  const refuse = (reason: string) => new NoAnswer(`it redirects to ${reason}`, { transient: false })
  if (!URL.canParse(location, from.href)) throw refuse(`what is no URL: ${shown(location)}`)
  const url = new URL(location, from)
  if (url.protocol !== 'http:' && url.protocol !== 'https:')
    throw refuse(`a ${url.protocol.slice(0, -1)} URL`)
  // Credentials that a stranger put there are not ours to send.
  url.username = ''
  url.password = ''
  url.hash = ''
  return url
}

/** `registry`: where we were before. */
export function downgrade(to: URL, registry: URL): NoAnswer {
  const own = to.hostname === registry.hostname
  return new NoAnswer(`it sends us from https to plain HTTP (${shown(to.host)})`, {
    transient: false,
    hint: own
      ? 'The registry, or the proxy before it, does not know that it is reached by https (X-Forwarded-Proto).'
      : `Everybody on the way to ${shown(to.host)} could read what is transferred; it should speak https. ${trustHint(to)}`,
  })
}
