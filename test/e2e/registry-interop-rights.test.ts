import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { account, type RealRegistry, startRealRegistry } from '../support/real-registry.js'
import { createRightsBench, type RightsBench, type TestUser } from '../support/rights-bench.js'

// A login belongs to who made it.

const { username, password } = account

let rights: RightsBench
let registry: RealRegistry

beforeAll(async () => {
  registry = await startRealRegistry({ htpasswd: true })
  rights = await createRightsBench()
})

afterAll(async () => {
  await rights?.[Symbol.asyncDispose]()
  await registry?.[Symbol.asyncDispose]()
})

const name = (repository: string): string => `${registry.host}/${repository}:1`

async function login(user: TestUser): Promise<void> {
  const args = ['login', '-u', username, '-p', registry.host]
  const { status, stdout, stderr } = await rights.client(user, args, { input: `${password}\n` })
  expect([status, stdout, stderr]).toEqual([0, 'Login Succeeded\n', ''])
}

/** An image of alice's whose content nobody has seen before, at the registry only. */
async function publish(repository: string): Promise<void> {
  const { alice } = rights
  const dockerfile = 'FROM base:1\nCOPY secret /secret\n'
  const context = rights.context(alice, dockerfile, { secret: randomBytes(2000).toString('hex') })
  await rights.accepted(alice, 'ctr-img', 'build', '-t', name(repository), context)
  await rights.accepted(alice, 'ctr-img', 'push', name(repository))
  await rights.accepted(alice, 'ctr-img', 'rm', name(repository))
  await rights.bench.prune()
}

const denied = (): RegExp => new RegExp(`isula-build login ${registry.host.replaceAll('.', '\\.')}`)

test('who has logged in pulls, and nobody else does', async () => {
  const { alice, bob } = rights
  await login(alice)
  await publish('team/private')
  await rights.refused(bob, denied(), 'ctr-img', 'pull', name('team/private'))
  await rights.accepted(alice, 'ctr-img', 'pull', name('team/private'))
  const before = registry.requests().length
  await rights.refused(bob, denied(), 'ctr-img', 'pull', '--policy=always', name('team/private'))
  const statuses = registry
    .requests()
    .slice(before)
    .map((request) => request.split(' ')[2])
  expect(new Set(statuses)).toEqual(new Set(['401']))
})

test('a build has the logins of whose it is', async () => {
  const { alice, bob } = rights
  await publish('team/base')
  const dockerfile = `FROM ${name('team/base')}\nENV A=1\n`
  const ofBob = rights.context(bob, dockerfile)
  await rights.refused(bob, denied(), 'ctr-img', 'build', '--pull', ofBob)
  await rights.accepted(alice, 'ctr-img', 'build', '--pull', rights.context(alice, dockerfile))
  await rights.refused(bob, denied(), 'ctr-img', 'build', '--pull', ofBob)
})

test('so has a push', async () => {
  const { alice, bob } = rights
  await rights.accepted(alice, 'ctr-img', 'pull', name('team/base'))
  await rights.accepted(bob, 'ctr-img', 'tag', 'base:1', name('of-bob/app'))
  await rights.refused(bob, denied(), 'ctr-img', 'push', name('of-bob/app'))
  await rights.refused(bob, denied(), 'ctr-img', 'push', 'base:1', name('team/base'))
})

test("a logout of one is not the other's", async () => {
  const { alice, bob } = rights
  await rights.refused(bob, /Not logged in registry/, 'logout', registry.host)
  await rights.accepted(alice, 'ctr-img', 'pull', '--policy=always', name('team/private'))
  await login(bob)
  await rights.accepted(bob, 'ctr-img', 'pull', '--policy=always', name('team/private'))
  await rights.accepted(alice, 'logout', registry.host)
  await rights.refused(alice, denied(), 'ctr-img', 'pull', '--policy=always', name('team/private'))
  await rights.accepted(bob, 'ctr-img', 'pull', '--policy=always', name('team/private'))
  await rights.accepted(bob, 'logout', '--all')
  await rights.refused(bob, denied(), 'ctr-img', 'pull', '--policy=always', name('team/private'))
})

test('no password is told', async () => {
  const encoded = Buffer.from(`${username}:${password}`).toString('base64')
  const log = readFileSync(rights.bench.daemon.log, 'utf8')
  for (const text of [password, encoded]) expect(log).not.toContain(text)
  await rights.expectUnharmed()
})
