import { createHash } from 'node:crypto'
import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Credentials, RegistryAccess } from '../../ports/registry.js'
import type { Scope } from '../http/exchange.js'
import { RecentMap } from '../http/recent-map.js'
import { type Challenge, parseChallenges } from './challenge.js'
import { checkedRealm, type RealmContext } from './realm.js'
import { challengedScopes, covers, mergeScopes, scopesOf } from './scopes.js'
import { createSharedWork } from './shared-work.js'
import type { Token } from './token-answer.js'
import { basicAuthorization, type TokenRequest } from './token-request.js'

/** What a request to a registry is authorized for. */
export interface AuthorizationRequest {
  readonly registry: RealmContext
  readonly access: RegistryAccess
  readonly scope: Scope | undefined
  readonly signal: AbortSignal
  /** Equal where tokens may be shared. */
  readonly verdict: string
  readonly fetchToken: (request: TokenRequest, signal: AbortSignal) => Promise<Token>
}

export interface Authorization {
  /** Value of the header. */
  readonly header: string
  readonly kind: 'basic' | 'bearer'
  /** Got for this request, not an earlier one. */
  readonly fresh: boolean
  readonly scopes: readonly string[]
  /** Has all that the registry asked for beyond what we thought. */
  readonly extended: boolean
  /** Of somebody who has logged in. */
  readonly known: boolean
}

export interface Authorizer {
  /** What this registry asked for last time; undefined: send the request without. */
  initial(request: AuthorizationRequest): Promise<Authorization | undefined>
  /**
   * After a 401: something better than `previous`, or undefined when there is nothing left to try. A token that was kept
   * is replaced once, and scopes are extended once, so this ends. Fails with ISB_REGISTRY_DENIED, ISB_REGISTRY_UNAVAILABLE.
   */
  next(
    request: AuthorizationRequest,
    header: string | undefined,
    previous: Authorization | undefined,
  ): Promise<Authorization | undefined>
}

interface KeptToken {
  readonly token: string
  /** performance.now() */
  readonly ends: number
}

export function createAuthorizer(): Authorizer {
  const tokens = new RecentMap<KeptToken>()
  const challenges = new RecentMap<Challenge>()
  const fetching = createSharedWork<Token>()
  const answers = new WeakMap<RegistryAccess, Map<string, Promise<Credentials | undefined>>>()

  const placeOf = ({ registry, access }: AuthorizationRequest) =>
    JSON.stringify([access.uid, registry.root.origin])

  /** Each call asks its user once, however many requests it makes. */
  function credentials({ access, registry, scope }: AuthorizationRequest): Promise<Credentials | undefined> {
    const known = answers.get(access) ?? new Map<string, Promise<Credentials | undefined>>()
    answers.set(access, known)
    const repository = scope?.repository ?? ''
    const key = JSON.stringify([registry.host, repository])
    const asked = known.get(key) ?? access.credentials(registry.host, repository)
    known.set(key, asked)
    asked.catch(() => known.delete(key))
    return asked
  }

  async function bearer(
    request: AuthorizationRequest,
    challenge: Challenge,
    scopes: readonly string[],
    /** `refused`: the header that the registry did not accept. */
    options: { readonly refused: string | undefined; readonly extended: boolean },
  ): Promise<Authorization> {
    const { registry, access, signal } = request
    const realm = checkedRealm(challenge.parameters['realm'], registry)
    const service = challenge.parameters['service']
    const user = await credentials(request)
    const identity = user === undefined ? '' : digest(user.username, user.password)
    const key = JSON.stringify([access.uid, realm.href, service, scopes, identity, request.verdict])
    const rest = { kind: 'bearer', scopes, extended: options.extended, known: user !== undefined } as const
    const kept = tokens.get(key)
    const header = `Bearer ${kept?.token}`
    if (kept !== undefined && kept.ends > performance.now() && header !== options.refused) {
      // After a refusal it is what another request has got meanwhile.
      return { ...rest, header, fresh: options.refused !== undefined }
    }
    tokens.delete(key)
    const received = performance.now()
    const token = await fetching.join(key, signal, (shared) =>
      request.fetchToken({ realm, service, scopes, credentials: user }, shared),
    )
    tokens.set(key, { token: token.value, ends: received + token.lifetime })
    return { ...rest, header: `Bearer ${token.value}`, fresh: true }
  }

  async function basic(request: AuthorizationRequest): Promise<Authorization | undefined> {
    const user = await credentials(request)
    if (user === undefined) return undefined
    return {
      header: basicAuthorization(user),
      kind: 'basic',
      fresh: true,
      scopes: [],
      extended: true,
      known: true,
    }
  }

  return {
    async initial(request) {
      const challenge = challenges.get(placeOf(request))
      if (challenge === undefined) return undefined
      if (challenge.scheme === 'basic') return basic(request)
      try {
        return await bearer(request, challenge, scopesOf(request.scope), {
          refused: undefined,
          extended: false,
        })
      } catch (error) {
        if (isBuilderError(error, 'ISB_CANCELLED')) throw error
        // The registry says anew where its token server is: that may have moved.
        challenges.delete(placeOf(request))
        // What is open to everybody stays so when the token server has changed its mind.
        if (isBuilderError(error, 'ISB_REGISTRY_DENIED')) return undefined
        throw error
      }
    },

    async next(request, header, previous) {
      const offered = parseChallenges(header ?? '')
      const challenge =
        offered.find(({ scheme, parameters }) => scheme === 'bearer' && parameters['realm'] !== undefined) ??
        offered.find(({ scheme }) => scheme === 'basic')
      if (challenge === undefined) return undefined
      challenges.set(placeOf(request), challenge)
      if (challenge.scheme === 'basic') return previous?.kind === 'basic' ? undefined : basic(request)
      const own = scopesOf(request.scope)
      const asked = challengedScopes(challenge.parameters['scope'])
      const scopes = mergeScopes([...own, ...asked])
      if (previous?.kind !== 'bearer')
        return bearer(request, challenge, scopes, { refused: undefined, extended: false })
      if (!previous.fresh) {
        return bearer(request, challenge, scopes, {
          refused: previous.header,
          extended: !covers(previous.scopes, asked),
        })
      }
      if (previous.extended || covers(previous.scopes, asked)) return undefined
      return bearer(request, challenge, scopes, { refused: previous.header, extended: true })
    },
  }
}

function digest(...parts: readonly string[]): string {
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex')
}
