import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { isHubHost, parseServer, type ServerName } from '../core/registries/server-name.js'
import type { Caller } from '../ports/caller.js'
import type { CredentialStore } from '../ports/credential-store.js'
import type { Credentials, RegistryClient } from '../ports/registry.js'
import type { ConfiguredRules } from '../ports/registry-rules.js'
import type { BuilderCore, LoginRequest, LogoutRequest } from '../rpc/handlers.js'

export interface LoginDeps {
  readonly client: RegistryClient
  readonly rules: Pick<ConfiguredRules, 'server'>
  readonly credentials: CredentialStore
}

/** Bytes; identity tokens are long. */
const credentialLimit = 64 * 1024

/** `login` and `logout` of the core. */
export function createLoginOperations(deps: LoginDeps): Pick<BuilderCore, 'login' | 'logout'> {
  return {
    login: (request, caller, signal) => login(deps, request, caller, signal),
    logout: (request, caller) => logout(deps, request, caller),
  }
}

async function login(
  { client, rules, credentials }: LoginDeps,
  request: LoginRequest,
  caller: Caller,
  signal: AbortSignal,
): Promise<void> {
  const server = parseServer(request.server)
  const endpoint = rules.server(server.host, server.namespace)
  const given = request.credentials
  if (given !== undefined) checkCredentials(given)
  const used = given ?? (await credentials.get(caller.uid, server.host, server.namespace))
  if (used === undefined) throw nothingStored(server)
  const access = {
    uid: caller.uid,
    credentials: async (host: string) => (isSameHost(host, endpoint.host) ? used : undefined),
    ...request.transfer,
  }
  await client.ping(endpoint, { access, signal })
  if (given !== undefined) await credentials.set(caller.uid, keyOf(server), given)
}

async function logout({ credentials }: LoginDeps, request: LogoutRequest, caller: Caller): Promise<void> {
  if (request.kind === 'all') return await credentials.removeAll(caller.uid)
  const server = parseServer(request.server)
  if (await credentials.remove(caller.uid, keyOf(server))) return
  throw new BuilderError('ISB_ARGUMENT_INVALID', `Not logged in registry ${request.server}`)
}

function checkCredentials({ username, password }: Credentials): void {
  if (username === '' || password === '') throw new BuilderError('ISB_ARGUMENT_INVALID', 'empty auth info')
  if (Buffer.byteLength(username) > credentialLimit || Buffer.byteLength(password) > credentialLimit) {
    throw new BuilderError(
      'ISB_LIMIT_EXCEEDED',
      `user name or password is longer than ${credentialLimit} bytes`,
    )
  }
  // RFC 7617: a colon ends the user name, and neither has control characters.
  if (username.includes(':')) {
    throw new BuilderError('ISB_ARGUMENT_INVALID', 'a user name must not contain a colon')
  }
  if (/[\x00-\x1f\x7f]/.test(username + password)) {
    throw new BuilderError(
      'ISB_ARGUMENT_INVALID',
      'user name and password must not contain control characters',
    )
  }
}

function nothingStored(server: ServerName): BuilderError {
  const key = keyOf(server)
  return new BuilderError('ISB_REGISTRY_DENIED', `no login for ${key} is stored`, {
    hint: `Log in with a user name: isula-build login -u USER ${key}.`,
  })
}

function keyOf({ host, namespace }: ServerName): string {
  return namespace === '' ? host : `${host}/${namespace}`
}

function isSameHost(one: string, other: string): boolean {
  return one.toLowerCase() === other.toLowerCase() || (isHubHost(one) && isHubHost(other))
}
