import { readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { builderService } from '../../packages/shared/src/rpc/builder.js'
import { useAttackBench } from '../support/attack-bench.js'
import { holds } from '../support/fake-registry/faults.js'
import { startFakeRegistry } from '../support/fake-registry.js'
import { filesHolding } from '../support/hostile-bench.js'
import { newImage, textOf, withConnection } from '../support/registry-content.js'

// reliability.md 1.4, S55, S56 and S58: where passwords go, and what a server may be called.

const world = useAttackBench()

describe('logins', () => {
  const files = (): readonly string[] => [
    ...['auth.json'].map((name) => join(world.daemon.configDir, name)),
    ...readdirSync(join(world.daemon.bench.data), { recursive: true, encoding: 'utf8' })
      .filter((name) => name === 'auth' || name.startsWith('auth/'))
      .map((name) => join(world.daemon.bench.data, name)),
  ]
  const login = (server: string) => world.daemon.login(server, 'anna', world.secret)

  test('fifty at once are all kept, in a file for root alone, whatever the umask; a logout takes one', async () => {
    await using registry = await startFakeRegistry({ auth: { kind: 'basic', users: { anna: world.secret } } })
    const names = Array.from({ length: 50 }, (_, index) => `${registry.host}/space-${index}`)
    await withConnection(world.daemon, (connection) =>
      Promise.all(
        names.map((server) =>
          connection.unary(builderService.Login, {
            server,
            credentials: { username: 'anna', password: world.secret },
            transfer: {},
          }),
        ),
      ),
    )
    const keys = () => Object.keys(JSON.parse(textOf(join(world.daemon.configDir, 'auth.json'))).auths).sort()
    expect(keys()).toEqual([...names].sort())
    for (const path of files()) {
      const { mode } = statSync(path)
      expect((mode & 0o077).toString(8), path).toBe('0')
    }
    await world.daemon.ok('logout', `${registry.host}/space-7`)
    expect(keys()).toEqual(names.filter((name) => !name.endsWith('-7')).sort())
    const left = readdirSync(world.daemon.configDir).filter((name) => /auth\.json./.test(name))
    expect(left).toEqual([])
    await world.daemon.ok('logout', '--all')
    expect(textOf(join(world.daemon.configDir, 'auth.json'))).not.toContain('space')
  })

  test('a password goes nowhere but to its registry and into its file', async () => {
    let release = (): void => undefined
    const gate = new Promise<void>((resolve) => {
      release = resolve
    })
    await using registry = await startFakeRegistry({ auth: { kind: 'basic', users: { anna: world.secret } } })
    registry.fail({ match: ({ headers }) => headers.authorization !== undefined, with: holds(gate) })
    const done = login(registry.host)
    await expect
      .poll(() => registry.requests.some(({ headers }) => headers.authorization !== undefined), {
        timeout: 10_000,
      })
      .toBe(true)
    expect(commandLines().filter((line) => line.includes(world.secret))).toEqual([])
    release()
    const { status, stdout, stderr } = await done
    expect(`${status} ${stderr}`).toBe('0 ')
    world.bench.expectSecretKept(stdout, stderr)
    const bytes = Buffer.from(`anna:${world.secret}`).toString('base64')
    expect(filesHolding(world.daemon.configDir, bytes)).toEqual([join(world.daemon.configDir, 'auth.json')])
    const target = newImage(registry)
    world.bench.expectSecretKept(await world.daemon.ok('pull', target.name))
    await world.daemon.ok('logout', registry.host)
    expect(filesHolding(world.daemon.configDir, bytes)).toEqual([])
    await world.daemon.clear()
    expect(await world.daemon.fails('pull', target.name)).toMatch(/401/)
  })

  test('a wrong password is not stored, nor told', async () => {
    await using registry = await startFakeRegistry({ auth: { kind: 'basic', users: { anna: 'another' } } })
    const { status, stdout, stderr } = await login(registry.host)
    expect(status).toBe(1)
    expect(stderr).toMatch(/401|denied|unauthorized/i)
    world.bench.expectSecretKept(stdout, stderr)
    expect(textOf(join(world.daemon.configDir, 'auth.json'))).not.toContain(registry.host)
  })

  test('a password on the command line is refused', async () => {
    const { status, stderr } = await world.daemon.run('login', '-u', 'anna', '--password', 'x', '127.0.0.1:1')
    expect(status).not.toBe(0)
    expect(stderr).toMatch(/password-stdin|unknown flag/)
  })

  test.each([
    '../../etc',
    '..',
    '.',
    '/',
    'a b',
    '-x',
    'host:99999',
    'host:',
    '@',
    'host/../../etc',
    'a\\b',
    '127.0.0.1:1/..',
  ])('the server %j is none', async (server) => {
    const before = snapshot()
    const { status } = await login(server)
    expect(status).not.toBe(0)
    expect(world.proxy.targets).toEqual([])
    expect(snapshot()).toEqual(before)
  })

  test('a server with NUL is none', async () => {
    const before = snapshot()
    await withConnection(world.daemon, async (connection) => {
      const credentials = { username: 'anna', password: world.secret }
      for (const server of ['host\0', 'a\0/../b', '\0']) {
        await expect(
          connection.unary(builderService.Login, { server, credentials, transfer: {} }),
        ).rejects.toThrow()
      }
    })
    expect(snapshot()).toEqual(before)
  })

  const snapshot = (): readonly string[] =>
    readdirSync(world.daemon.configDir, { recursive: true, encoding: 'utf8' }).filter(
      (name) => name !== 'auth.json',
    )
})

function commandLines(): readonly string[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => textOf(`/proc/${pid}/cmdline`) + textOf(`/proc/${pid}/environ`))
}
