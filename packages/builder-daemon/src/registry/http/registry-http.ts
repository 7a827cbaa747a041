import { setMaxListeners } from 'node:events'
import { isIP } from 'node:net'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Logger } from '../../ports/logger.js'
import { type Authorization, type AuthorizationRequest, createAuthorizer } from '../auth/authorizer.js'
import { requestToken } from '../auth/token-request.js'
import { createAnswer } from './answer.js'
import { createConnections } from './connections.js'
import type { Answer, Exchange, HttpContext, Origin, RegistryHttp } from './exchange.js'
import { answerError, type Subject, sentence, transportError } from './failure.js'
import { bareHostname, endpointRoot, isLoopbackHost } from './hosts.js'
import { defaultLimits, type HttpLimits } from './limits.js'
import type { NoAnswer } from './no-answer.js'
import { proxyRules } from './proxy.js'
import { RecentMap } from './recent-map.js'
import { downgrade, following } from './redirects.js'
import { createRepeater } from './repeat.js'
import { createSchemes, type Scheme } from './schemes.js'
import { createSlots, type Slot, withTotal } from './slots.js'
import { createTransport, type Reply } from './transport.js'
import { createTrustStore } from './trust.js'
import { trustedHosts } from './trusted-hosts.js'
import { type Zone, zoneOf } from './zones.js'

/** All but `log` can be sent to a thread. */
export interface RegistryHttpOptions {
  /** `certs.d` directories; the first with a directory for the host counts (`/etc/isula-build/certs.d`). */
  readonly certificates: readonly string[]
  /** The daemon's: `https_proxy`, `http_proxy`, `no_proxy`, SSL_CERT_FILE, NODE_EXTRA_CA_CERTS are used. */
  readonly environment: Readonly<Record<string, string | undefined>>
  readonly log: Logger
  /** Hosts, `*.domain`s, addresses and CIDRs that any registry may name, by plain HTTP too. */
  readonly trustedHosts?: readonly string[] | undefined
  readonly limits?: Partial<HttpLimits> | undefined
}

/** One call of `send`, with what was decided about its registry. */
interface Session {
  readonly origin: Origin
  readonly exchange: Exchange
  readonly context: HttpContext
  /** Plain HTTP and certificates that nobody can verify are allowed for the registry. */
  readonly insecure: boolean
  readonly slot: Slot
  readonly subject: Subject
  /** The registry itself has answered. */
  readonly answered: () => void
}

interface Routed {
  readonly reply: Reply
  /** With what it was asked for; undefined: by nobody in particular. */
  readonly authorization: Authorization | undefined
}

const small = 1024 * 1024
/** Of authentication, for a request; there is no honest need for more than three. */
const mostRounds = 5

export function createRegistryHttp(options: RegistryHttpOptions): RegistryHttp {
  const limits = { ...defaultLimits, ...options.limits }
  const connections = createConnections(limits)
  const trusted = trustedHosts(options.trustedHosts ?? [])
  const transport = createTransport({
    ...{ connections, trusted },
    trust: createTrustStore(options.certificates, options.environment),
    proxies: proxyRules(options.environment),
    limits,
  })
  const schemes = createSchemes()
  const transfers = withTotal(createSlots(limits.connections), createSlots(limits.transfers))
  const questions = createSlots(limits.connections * 4)
  const authorizer = createAuthorizer()
  const repeated = createRepeater(limits, options.log)
  /** Where registries were found to be. */
  const zones = new RecentMap<Zone>()

  const zoneOfRoot = (root: URL): Zone => {
    const address = bareHostname(root)
    return isIP(address) === 0 ? (zones.get(root.host) ?? 'public') : zoneOf(address)
  }
  /** Whoever owns a name may change what it means in between. */
  const namedFrom = (root: URL, url: URL): Zone | undefined =>
    url.host === root.host || trusted.names(url) ? undefined : zoneOfRoot(root)
  const neverAnswered = (host: string): boolean =>
    (['https', 'http'] as const).every((scheme) => zones.get(endpointRoot(host, scheme).host) === undefined)
  const plainAllowed = (url: URL, insecure: boolean) =>
    url.protocol !== 'http:' || insecure || trusted.names(url)
  const explain = (reply: Reply, subject: Subject) => (failure: NoAnswer) =>
    transportError(failure, { ...subject, server: reply.url.host })

  /** One URL; who names it, and what it may be trusted with, depends on whether it is the registry's own. */
  async function sendTo(
    session: Session,
    root: URL,
    url: URL,
    authorization: string | undefined,
  ): Promise<Reply> {
    const { exchange, context, insecure, origin, slot } = session
    const own = url.host === root.host
    const reply = await transport({
      method: exchange.method,
      url,
      headers: {
        ...withoutCredentials(exchange.headers ?? {}),
        ...(authorization === undefined ? {} : { authorization }),
      },
      body: exchange.body,
      uid: context.access.uid,
      certificates: own ? origin.host : url.host,
      verified: !(own ? insecure : context.access.tlsVerify === false),
      namedFrom: namedFrom(root, url),
      repeatable: exchange.repeat !== 'once',
      work: Math.max(exchange.body?.size ?? 0, exchange.work ?? 0),
      slot,
      signal: context.signal,
    })
    if (own) {
      zones.set(root.host, reply.zone)
      session.answered()
    }
    return reply
  }

  const answerOf = (reply: Reply, session: Pick<Session, 'subject' | 'context'>, slot?: Slot) =>
    createAnswer(reply, {
      limits,
      slot,
      signal: session.context.signal,
      explain: explain(reply, session.subject),
    })

  async function follow(session: Session, root: URL, authorization: string | undefined): Promise<Reply> {
    const { exchange, insecure } = session
    const first = new URL(exchange.target, root)
    if (!plainAllowed(first, insecure)) throw downgrade(first, root)
    const send = (url: URL, trusted: boolean) =>
      sendTo(session, root, url, trusted && url.origin === root.origin ? authorization : undefined)
    if (exchange.method !== 'GET' && exchange.method !== 'HEAD') return send(first, true)
    return following({
      first,
      send: async (url, trusted) => {
        const reply = await send(url, trusted)
        return { status: reply.status, location: reply.headers['location'], url, reply }
      },
      discard: (reply) => answerOf(reply, session).discard(),
      wanted: exchange.expect,
      mayDowngrade: (to) => plainAllowed(to, insecure),
    })
  }

  async function authorized(session: Session, root: URL): Promise<Routed> {
    const { exchange, context } = session
    const own = new URL(exchange.target, root).origin === root.origin
    const request = (zone: Zone): AuthorizationRequest => ({
      registry: { host: session.origin.host, root, insecure: session.insecure, zone, trusted },
      access: context.access,
      scope: exchange.scope,
      signal: context.signal,
      verdict: JSON.stringify([session.insecure, context.access.tlsVerify === false]),
      fetchToken: (wanted, signal) =>
        requestToken(
          wanted,
          (message) => tokenExchange(session, root, message, signal),
          tokenSubject(session, wanted.realm, wanted.credentials !== undefined),
          (answer) =>
            answerError(answer, tokenSubject(session, wanted.realm, wanted.credentials !== undefined)),
        ),
    })
    let authorization = own ? await authorizer.initial(request(zoneOfRoot(root))) : undefined
    for (let round = 0; ; round++) {
      const reply = await follow(session, root, authorization?.header)
      const isAsked = reply.status === 401 && own && reply.url.origin === root.origin
      if (!isAsked || round === mostRounds) return { reply, authorization }
      let next: Authorization | undefined
      try {
        next = await authorizer.next(request(reply.zone), reply.headers['www-authenticate'], authorization)
      } catch (error) {
        reply.close()
        throw error
      }
      if (next === undefined) return { reply, authorization }
      await answerOf(reply, session).discard()
      authorization = next
    }
  }

  const tokenSubject = ({ subject }: Session, realm: URL, known: boolean): Subject => ({
    ...subject,
    server: `token server ${realm.host}`,
    known,
  })

  /** The token server has its own verdict: only where it is the registry itself, its certificate may be anything. */
  function tokenExchange(
    session: Session,
    root: URL,
    message: Parameters<Parameters<typeof requestToken>[1]>[0],
    signal: AbortSignal,
  ): Promise<Answer> {
    const { access } = session.context
    const { url, method, headers, body } = message
    const subject = tokenSubject(session, url, false)
    return repeated(
      async () => {
        const reply = await transport({
          method,
          url,
          headers,
          body,
          uid: access.uid,
          certificates: url.host,
          verified: !((url.host === root.host && session.insecure) || access.tlsVerify === false),
          namedFrom: namedFrom(root, url),
          repeatable: true,
          work: body?.size ?? 0,
          slot: undefined,
          signal,
        })
        return createAnswer(reply, {
          limits,
          slot: undefined,
          signal,
          explain: (failure) => transportError(failure, subject),
        })
      },
      {
        ...{ subject, expect: [], once: false, access, signal, onNotice: session.context.onNotice },
        refusesForGood: () => false,
      },
    )
  }

  return {
    async send(origin, exchange, context) {
      const { access, signal } = context
      // One signal serves all requests of a transfer.
      setMaxListeners(0, signal)
      const lenient = access.tlsVerify === undefined && (origin.insecure || isLoopbackName(origin.host))
      const insecure = lenient || access.tlsVerify === false
      const subject: Subject = { host: origin.host, what: context.what }
      const slots = isTransfer(exchange) ? transfers : questions
      let used: Authorization | undefined
      const stated = schemeOf(exchange.target, origin.host)
      const answer = await repeated(
        async () => {
          const slot = await slots.take(origin.host, access.uid, signal)
          try {
            const session = { origin, exchange, context, insecure, slot, subject }
            const { reply, authorization } = await schemes.reach(
              ...([origin.host, insecure, stated] as const),
              (root, answered) => authorized({ ...session, answered }, root),
            )
            used = authorization
            return answerOf(reply, { subject, context }, slot)
          } catch (error) {
            slot.release()
            throw error
          }
        },
        {
          ...{ subject, access, signal, expect: exchange.expect, onNotice: context.onNotice },
          once: exchange.repeat !== 'safe',
          refusesForGood: () => neverAnswered(origin.host) && isAddressOrLoopback(origin.host),
        },
      )
      if (!exchange.expect.includes(answer.status)) {
        const server = foreign(answer.url, origin)
        const accepted = server === undefined && used?.kind === 'bearer'
        throw await answerError(answer, { ...subject, known: used?.known ?? false, accepted, server })
      }
      const encoding = answer.headers['content-encoding']
      if (encoding !== undefined && encoding !== 'identity' && exchange.method !== 'HEAD') {
        await answer.discard()
        throw new BuilderError(
          'ISB_REGISTRY_UNAVAILABLE',
          sentence(subject, 'sends a Content-Encoding that was not asked for'),
          { hint: 'A proxy before the registry recompresses what passes; switch that off.' },
        )
      }
      return answer
    },
    close: () => connections.close(),
  }
}

/** What moves many bytes; questions must not wait behind it. */
function isTransfer({ method, target, body }: Exchange): boolean {
  return (
    (method === 'GET' && /\/blobs\/(?!uploads\/)/.test(String(target))) ||
    (body !== undefined && (body.size ?? small + 1) > small)
  )
}

function isLoopbackName(host: string): boolean {
  return URL.canParse(`https://${host}/`) && isLoopbackHost(new URL(`https://${host}/`))
}

/** No name server and no balancer has a say in who listens there. */
function isAddressOrLoopback(host: string): boolean {
  const root = endpointRoot(host, 'https')
  return isIP(bareHostname(root)) !== 0 || isLoopbackHost(root)
}

/** The host that answered when it was not the registry. */
function foreign(url: URL, { host }: Origin): string | undefined {
  return schemeOf(url, host) === 'elsewhere' ? url.host : undefined
}

/** What an absolute URL tells of how the registry is spoken to. */
function schemeOf(target: string | URL, host: string): Scheme | 'elsewhere' | undefined {
  if (!URL.canParse(String(target))) return undefined
  const url = new URL(target)
  const schemes = ['https', 'http'] as const
  return schemes.find((scheme) => url.origin === endpointRoot(host, scheme).origin) ?? 'elsewhere'
}

function withoutCredentials(headers: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  return Object.fromEntries(
    Object.entries(headers).filter(([name]) => !/^(?:authorization|cookie|proxy-authorization)$/i.test(name)),
  )
}
