import { randomBytes } from 'node:crypto'
import type { IncomingHttpHeaders } from 'node:http'
import { type Reply, refusal, reply } from './reply.js'

export interface BasicAuthentication {
  readonly kind: 'basic'
  /** Passwords by user. */
  readonly users: Readonly<Record<string, string>>
}

export interface TokenAuthentication {
  readonly kind: 'token'
  readonly users: Readonly<Record<string, string>>
  /** Users by identity token (OAuth2 refresh token). */
  readonly identityTokens?: Readonly<Record<string, string>>
  /** Without a user: `pull` of everything, or nothing. */
  readonly anonymous?: 'pull' | 'none'
  /** Milliseconds that a token is worth something; an hour when not given. */
  readonly lifetime?: number
  /** Said of it, when something else than the truth; null: nothing. */
  readonly expiresIn?: number | null
  /** What a user may do; everything when not given. */
  readonly allows?: (user: string | undefined, repository: string, action: string) => boolean
  /** Instead of the token server that is started. */
  readonly realm?: string
  readonly service?: string
}

export type Authentication = BasicAuthentication | TokenAuthentication

/** What a request needs. */
export interface Need {
  readonly repository: string
  readonly actions: readonly string[]
}

export type Verdict =
  | { readonly user: string | undefined; readonly may: (need: Need) => boolean }
  | { readonly refused: Reply; readonly user?: string }

export interface Gate {
  check(headers: IncomingHttpHeaders, need: Need | undefined): Verdict
  /** Answers requests to the token server. */
  token(request: {
    readonly method: string
    readonly query: URLSearchParams
    readonly headers: IncomingHttpHeaders
    readonly body: string
  }): { readonly reply: Reply; readonly user: string | undefined }
  /** No token that was given is worth anything from now on. */
  revoke(): void
  /** How many tokens were given. */
  given(): number
}

interface Token {
  readonly user: string | undefined
  readonly allowed: ReadonlyMap<string, ReadonlySet<string>>
  readonly ends: number
}

const service = 'fake-registry'

export function createGate(authentication: Authentication, realm: () => string): Gate {
  const tokens = new Map<string, Token>()
  let given = 0

  function challenge(need: Need | undefined, error?: string): Reply {
    if (authentication.kind === 'basic') {
      return refusal(401, 'UNAUTHORIZED', 'authentication required', {
        'www-authenticate': 'Basic realm="fake registry"',
      })
    }
    const scope = need === undefined ? '' : `,scope="repository:${need.repository}:${need.actions.join(',')}"`
    const said = error === undefined ? '' : `,error="${error}"`
    const where = authentication.realm ?? realm()
    const header = `Bearer realm="${where}",service="${authentication.service ?? service}"${scope}${said}`
    return refusal(401, 'UNAUTHORIZED', 'authentication required', { 'www-authenticate': header })
  }

  /** undefined: a wrong password. */
  function userOf(headers: IncomingHttpHeaders): { readonly user: string | undefined } | undefined {
    const { authorization } = headers
    if (authorization === undefined) return { user: undefined }
    const [scheme = '', value = ''] = authorization.split(' ')
    if (scheme !== 'Basic') return undefined
    const [, user = '', password = ''] = /^([^:]*):(.*)$/s.exec(Buffer.from(value, 'base64').toString()) ?? []
    return authentication.users[user] === password && password !== '' ? { user } : undefined
  }

  function actionsFor(user: string | undefined, scope: string): readonly [string, ReadonlySet<string>] {
    const [, repository = '', actions = ''] = /^repository:(.+):([a-z,*]+)$/.exec(scope) ?? []
    const { anonymous = 'none', allows } = authentication as TokenAuthentication
    const may = (action: string): boolean => {
      if (allows !== undefined) return allows(user, repository, action)
      return user !== undefined || (anonymous === 'pull' && action === 'pull')
    }
    return [repository, new Set(actions.split(',').filter(may))]
  }

  return {
    check(headers, need) {
      if (authentication.kind === 'basic') {
        const found = userOf(headers)
        if (found?.user === undefined) return { refused: challenge(need) }
        return { user: found.user, may: () => true }
      }
      const value = /^Bearer (\S+)$/.exec(headers.authorization ?? '')?.[1]
      if (value === undefined) return { refused: challenge(need) }
      const token = tokens.get(value)
      if (token === undefined || token.ends < performance.now()) {
        return { refused: challenge(need, 'invalid_token') }
      }
      const may = (wanted: Need): boolean =>
        wanted.actions.every((action) => token.allowed.get(wanted.repository)?.has(action) === true)
      if (need !== undefined && !may(need)) {
        return {
          refused: challenge(need, 'insufficient_scope'),
          ...(token.user !== undefined && { user: token.user }),
        }
      }
      return { user: token.user, may }
    },
    token({ method, query, headers, body }) {
      if (authentication.kind === 'basic') throw new Error('Basic authentication has no tokens')
      const form = method === 'POST' ? new URLSearchParams(body) : query
      const denied = {
        reply: refusal(401, 'UNAUTHORIZED', 'incorrect username or password'),
        user: undefined,
      }
      let user: string | undefined
      if (method === 'POST') {
        if (form.get('grant_type') !== 'refresh_token') return denied
        user = authentication.identityTokens?.[form.get('refresh_token') ?? '']
        if (user === undefined) return denied
      } else {
        const found = userOf(headers)
        if (found === undefined) return denied
        user = found.user
      }
      const asked = form
        .getAll('scope')
        .flatMap((scope) => scope.split(' '))
        .filter((scope) => scope !== '')
      const allowed = new Map(asked.map((scope) => actionsFor(user, scope)))
      const value = randomBytes(20).toString('hex')
      const lifetime = authentication.lifetime ?? 3_600_000
      given++
      tokens.set(value, { user, allowed, ends: performance.now() + lifetime })
      const { expiresIn = Math.floor(lifetime / 1000) } = authentication
      const document = {
        [method === 'POST' ? 'access_token' : 'token']: value,
        ...(expiresIn === null ? {} : { expires_in: expiresIn }),
        issued_at: new Date().toISOString(),
      }
      const bytes = Buffer.from(JSON.stringify(document))
      return { reply: reply(200, { 'content-type': 'application/json' }, bytes), user }
    },
    revoke: () => tokens.clear(),
    given: () => given,
  }
}
