import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Credentials } from '../../ports/registry.js'
import type { Answer, RequestBody } from '../http/exchange.js'
import { type Subject, sentence } from '../http/failure.js'
import { readToken, type Token } from './token-answer.js'

/** A request to a token server; redirects are not followed, any status is an answer. */
export type TokenExchange = (request: {
  readonly method: 'GET' | 'POST'
  readonly url: URL
  readonly headers: Readonly<Record<string, string>>
  readonly body: RequestBody | undefined
}) => Promise<Answer>

export interface TokenRequest {
  readonly realm: URL
  readonly service: string | undefined
  readonly scopes: readonly string[]
  readonly credentials: Credentials | undefined
}

/** User name that marks a password as an identity token. */
export const identityTokenUser = '<token>'
const clientId = 'isula-build'
const longestAnswer = 1024 * 1024

/**
 * Asks for a token: with GET and Basic credentials, or none (distribution spec, token authentication); an identity token
 * is a refresh token of OAuth2 (RFC 6749, section 6) and goes by POST.
 */
export async function requestToken(
  { realm, service, scopes, credentials }: TokenRequest,
  exchange: TokenExchange,
  subject: Subject,
  explain: (answer: Answer) => Promise<BuilderError>,
): Promise<Token> {
  const answer =
    credentials?.username === identityTokenUser
      ? await exchange(refresh(realm, service, scopes, credentials.password))
      : await exchange(basic(realm, service, scopes, credentials))
  if (answer.status !== 200) throw await explain(answer)
  const token = readToken((await answer.bytes(longestAnswer)).toString(), answer.headers['date'])
  if (token !== undefined) return token
  const type = answer.headers['content-type'] ?? 'no content type'
  throw new BuilderError(
    'ISB_REGISTRY_UNAVAILABLE',
    sentence(subject, `answered without a token (${type.slice(0, 80)})`),
    { hint: 'Something other than a token server answers there, perhaps a login page or a proxy.' },
  )
}

function basic(
  realm: URL,
  service: string | undefined,
  scopes: readonly string[],
  credentials: Credentials | undefined,
): Parameters<TokenExchange>[0] {
  const url = new URL(realm)
  if (service !== undefined) url.searchParams.set('service', service)
  for (const scope of scopes) url.searchParams.append('scope', scope)
  if (credentials !== undefined) url.searchParams.set('account', credentials.username)
  url.searchParams.set('client_id', clientId)
  return {
    method: 'GET',
    url,
    headers: credentials === undefined ? {} : { authorization: basicAuthorization(credentials) },
    body: undefined,
  }
}

function refresh(
  realm: URL,
  service: string | undefined,
  scopes: readonly string[],
  identityToken: string,
): Parameters<TokenExchange>[0] {
  const form = new URLSearchParams({ grant_type: 'refresh_token', client_id: clientId })
  if (service !== undefined) form.set('service', service)
  if (scopes.length > 0) form.set('scope', scopes.join(' '))
  form.set('refresh_token', identityToken)
  const bytes = Buffer.from(form.toString())
  return {
    method: 'POST',
    url: realm,
    headers: { 'content-type': 'application/x-www-form-urlencoded' },
    body: {
      size: bytes.length,
      async *open() {
        yield bytes
      },
    },
  }
}

export function basicAuthorization({ username, password }: Credentials): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`
}
