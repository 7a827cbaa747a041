import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { expect, test } from 'vitest'
import type { Caller } from '../ports/caller.js'
import type { Credentials } from '../ports/registry.js'
import type { CredentialClient } from '../rpc/handlers.js'
import { createAccessFor } from './registry-access.js'

const caller: Caller = { uid: 1001, gid: 1001, groups: [], pid: 1, sameMountNamespace: true }
const transfer = { tlsVerify: false, retries: 2, retryDelay: 50 }
const login: Credentials = { username: 'login', password: 'l' }

function client(known: Awaited<ReturnType<CredentialClient['credentials']>>): CredentialClient & {
  readonly asked: string[]
} {
  const asked: string[] = []
  return {
    asked,
    async credentials(host, repository) {
      asked.push(`${host} ${repository}`)
      return known
    },
  }
}

function access(known: Awaited<ReturnType<CredentialClient['credentials']>>, kept: Credentials | undefined) {
  const looked: string[] = []
  const store = {
    async get(uid: number, host: string, repository: string) {
      looked.push(`${uid} ${host} ${repository}`)
      return kept
    },
  }
  const own = client(known)
  return { access: createAccessFor(store)(caller, own, transfer), looked, asked: own.asked }
}

test('what the user named for the call comes before his login, and that before what his program knows', async () => {
  const named = { username: 'named', password: 'n', explicit: true }
  const known = { username: 'known', password: 'k', explicit: false }
  const first = access(named, login)
  expect(await first.access.credentials('r.test', 'a/b')).toEqual({ username: 'named', password: 'n' })
  expect(first.looked).toEqual([])
  const second = access(known, login)
  expect(await second.access.credentials('r.test', 'a/b')).toEqual(login)
  expect(second.looked).toEqual(['1001 r.test a/b'])
  expect(await access(known, undefined).access.credentials('r.test', 'a/b')).toEqual({
    username: 'known',
    password: 'k',
  })
  expect(await access(undefined, undefined).access.credentials('r.test', 'a/b')).toBeUndefined()
})

test('who is refused learns which of two logins it was', async () => {
  const denied = new BuilderError('ISB_REGISTRY_DENIED', 'registry r.test: answered 401', { hint: 'Log in.' })
  const known = { username: 'known', password: 'k', explicit: false }
  const hintAfter = async (own: ReturnType<typeof access>, error: unknown): Promise<unknown> => {
    await own.access.credentials('r.test', 'a/b', 'r.test')
    return (own.access.explained(error) as BuilderError).hint
  }
  expect(await hintAfter(access(known, login), denied)).toBe(
    'Log in. The login of `isula-build login` was used; without it (`isula-build logout r.test`) the one of your own files is.',
  )
  expect(await hintAfter(access(undefined, login), denied)).toBe('Log in.')
  expect(await hintAfter(access(known, undefined), denied)).toBe('Log in.')
  expect(await hintAfter(access({ ...known, explicit: true }, login), denied)).toBe('Log in.')
  const other = new BuilderError('ISB_REGISTRY_DENIED', 'registry q.test: answered 401')
  expect(await hintAfter(access(known, login), other)).toBeUndefined()
})

test('nobody is asked before it is needed, nor twice', async () => {
  const own = access(undefined, login)
  expect(own.asked).toEqual([])
  await Promise.all([1, 2].map(() => own.access.credentials('r.test', 'a/b')))
  await own.access.credentials('r.test', 'c')
  expect(own.asked).toEqual(['r.test a/b', 'r.test c'])
  expect(own.access).toMatchObject({ uid: 1001, tlsVerify: false, retries: 2, retryDelay: 50 })
})
