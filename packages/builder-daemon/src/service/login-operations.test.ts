import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { beforeEach, describe, expect, test } from 'vitest'
import { decodeRegistries } from '../config/registries-file.js'
import { serverOf } from '../core/registries/registry-table.js'
import type { CredentialStore } from '../ports/credential-store.js'
import type { Credentials, Endpoint, RegistryCall, RegistryClient } from '../ports/registry.js'
import type { LoginRequest } from '../rpc/handlers.js'
import { createLoginOperations } from './login-operations.js'

const caller = { uid: 1000, gid: 1000, pid: 1, groups: [], sameMountNamespace: true }
const signal = new AbortController().signal
const transfer = { tlsVerify: false, retries: 7, retryDelay: 5 }
const { table } = decodeRegistries(
  '[[registry]]\nlocation = "bad.test"\nblocked = true\n[[registry]]\nlocation = "in.test"\ninsecure = true\n',
  'registries.toml',
)

let kept: Map<string, Credentials>
let pings: { endpoint: Endpoint; call: RegistryCall; used: Credentials | undefined; foreign: unknown }[]

const credentials: CredentialStore = {
  get: async (uid, host, repository) =>
    kept.get(`${uid} ${host}${repository === '' ? '' : `/${repository}`}`),
  set: async (uid, key, value) => void kept.set(`${uid} ${key}`, value),
  remove: async (uid, key) => kept.delete(`${uid} ${key}`),
  removeAll: async () => kept.clear(),
}

/** A registry that only knows `good`. */
const ping: RegistryClient['ping'] = async (endpoint, call) => {
  const used = await call.access.credentials(endpoint.host, endpoint.repository)
  pings.push({ endpoint, call, used, foreign: await call.access.credentials('evil.test', '') })
  if (used?.password !== 'good') throw new BuilderError('ISB_REGISTRY_DENIED', 'quay.io: 401')
}

const operations = createLoginOperations({
  client: { ping } as RegistryClient,
  rules: { server: (host, namespace) => serverOf(table, host, namespace) },
  credentials,
})
const login = (server: string, given: LoginRequest['credentials']): Promise<void> =>
  operations.login({ server, credentials: given, transfer }, caller, signal)
const good = { username: 'me', password: 'good' }

beforeEach(() => {
  kept = new Map()
  pings = []
})

describe('login', () => {
  test('keeps what the registry accepted, under the name without scheme and path', async () => {
    await login('https://Quay.io/v2/', good)
    await login('quay.io/team', good)
    await login('index.docker.io', good)
    expect([...kept.keys()]).toEqual(['1000 quay.io', '1000 quay.io/team', '1000 docker.io'])
    expect(pings[0]).toMatchObject({
      endpoint: { host: 'quay.io', repository: '', insecure: false },
      call: { access: { uid: 1000, ...transfer }, signal },
      used: good,
      foreign: undefined,
    })
    expect(pings[1]?.endpoint.repository).toBe('team')
  })

  test('keeps nothing that the registry refused', async () => {
    kept.set('1000 quay.io', good)
    await expect(login('quay.io', { username: 'me', password: 'bad' })).rejects.toMatchObject({
      code: 'ISB_REGISTRY_DENIED',
    })
    expect(kept.get('1000 quay.io')).toEqual(good)
  })

  test('without a user name tries what is kept', async () => {
    kept.set('1000 quay.io', good)
    await login('quay.io', undefined)
    expect(pings[0]?.used).toEqual(good)
    kept.set('1000 quay.io', { username: 'me', password: 'expired' })
    await expect(login('quay.io', undefined)).rejects.toThrow('401')
    await expect(login('other.test', undefined)).rejects.toMatchObject({
      ...{ code: 'ISB_REGISTRY_DENIED', message: 'no login for other.test is stored' },
    })
    expect(pings).toHaveLength(2)
  })

  test('asks an insecure registry as one, a blocked one not at all', async () => {
    await login('in.test', good)
    expect(pings[0]?.endpoint.insecure).toBe(true)
    await expect(login('BAD.test:443', good)).rejects.toMatchObject({ code: 'ISB_REGISTRY_DENIED' })
    expect(pings).toHaveLength(1)
  })

  test.each([
    ['', good],
    ['../../etc', good],
    ['a/b', good],
    ['a\0', good],
    ['a'.repeat(256), good],
    ['quay.io', { username: '', password: 'x' }],
    ['quay.io', { username: 'x', password: '' }],
    ['quay.io', { username: 'a:b', password: 'x' }],
    ['quay.io', { username: 'a\nb', password: 'x' }],
    ['quay.io', { username: 'a', password: 'x\0' }],
  ])('at %j with %j is refused before anybody is asked', async (server, given) => {
    await expect(login(server, given)).rejects.toMatchObject({ code: 'ISB_ARGUMENT_INVALID' })
    expect(pings).toEqual([])
    expect(kept.size).toBe(0)
  })

  test('takes tokens up to 64 KiB', async () => {
    const long = { username: '<token>', password: 'x'.repeat(64 * 1024) }
    await expect(login('quay.io', long)).rejects.toThrow('401')
    await expect(login('quay.io', { ...long, password: `${long.password}x` })).rejects.toMatchObject({
      code: 'ISB_LIMIT_EXCEEDED',
    })
    expect(pings).toHaveLength(1)
  })
})

describe('logout', () => {
  test('removes exactly one login, or all', async () => {
    for (const key of ['quay.io', 'quay.io/team', 'a.test']) kept.set(`1000 ${key}`, good)
    await operations.logout({ kind: 'server', server: 'https://quay.io/' }, caller)
    expect([...kept.keys()]).toEqual(['1000 quay.io/team', '1000 a.test'])
    await operations.logout({ kind: 'all' }, caller)
    expect(kept.size).toBe(0)
  })

  test('of a registry without a login says so', async () => {
    await expect(operations.logout({ kind: 'server', server: 'quay.io' }, caller)).rejects.toMatchObject({
      ...{ code: 'ISB_ARGUMENT_INVALID', message: 'Not logged in registry quay.io' },
    })
    await expect(operations.logout({ kind: 'server', server: '../x' }, caller)).rejects.toMatchObject({
      code: 'ISB_ARGUMENT_INVALID',
    })
  })
})
