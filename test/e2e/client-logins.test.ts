import { constants, createPublicKey, publicEncrypt } from 'node:crypto'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { all, connectClient, failure } from '../../packages/builder-daemon/src/rpc/test-client.js'
import { controlService } from '../../packages/shared/src/rpc/control.js'
import { type ClientBench, createClientBench } from '../support/client-bench.js'
import { account, type RealRegistry, startRealRegistry } from '../support/real-registry.js'

// Commands of both clients against a registry that wants to know who calls.

const { username, password } = account

let bench: ClientBench
let registry: RealRegistry
let home: string
beforeAll(async () => {
  registry = await startRealRegistry({ htpasswd: true })
  bench = await createClientBench()
  home = join(bench.work, 'home')
  mkdirSync(home)
})
afterAll(async () => {
  await bench[Symbol.asyncDispose]()
  await registry[Symbol.asyncDispose]()
})
beforeEach(() => client(['logout', '-a']))

const env = (): Readonly<Record<string, string>> => ({
  HOME: home,
  XDG_RUNTIME_DIR: home,
  REGISTRY_AUTH_FILE: '',
})
const client = (args: readonly string[], input = '') => {
  const { status, stdout, stderr } = bench.daemon.client(args, { env: env(), input, timeout: 60_000 })
  return { status, stdout, stderr }
}
const ctrImg = (...args: readonly string[]) => client(['ctr-img', ...args])
const name = (): string => `${registry.host}/team/app:1`
const creds = `${username}:${password}`

describe('our client', () => {
  test('logs in, works with it, and logs out', () => {
    expect(ctrImg('push', 'base:1', name())).toMatchObject({
      status: 1,
      stdout: expect.not.stringContaining('success'),
    })
    const login = client(['login', '-u', username, '-p', registry.host], `${password}\n`)
    expect(login).toEqual({ status: 0, stdout: 'Login Succeeded\n', stderr: '' })
    expect(client(['login', registry.host]).stdout).toContain('Login Succeed with AuthFile')
    const push = ctrImg('push', 'base:1', name())
    expect([push.status, push.stderr]).toEqual([0, ''])
    expect(push.stdout).toMatch(/\nPush success with image: base:1\n$/)
    const pull = ctrImg('pull', name())
    expect([pull.status, pull.stderr]).toEqual([0, ''])
    expect(pull.stdout.endsWith(`Pull success with image: ${name()}\n`)).toBe(true)
    expect(ctrImg('pull', '-q', name()).stdout).toBe(ctrImg('images', '-q', 'base:1').stdout)
    expect(client(['logout', registry.host])).toEqual({
      status: 0,
      stdout: `Removed authentication for ${registry.host}\n`,
      stderr: '',
    })
    const denied = ctrImg('pull', '--policy=always', name())
    expect([denied.status, denied.stdout.includes('success')]).toEqual([1, false])
    expect(denied.stderr).toContain('pull image failed: ')
    expect(denied.stderr).toContain(registry.host)
  })

  test('keeps no login that does not work', () => {
    const wrong = client(['login', '-u', username, '-p', registry.host], 'wrong')
    expect([wrong.status, wrong.stdout]).toEqual([1, '\nLogin Failed\n\n'])
    expect(wrong.stderr).not.toContain('wrong')
    const again = client(['login', registry.host], `${username}\n${password}\n`)
    expect(again.stdout).toContain('Failed to authenticate existing credentials')
    expect(again.stdout.endsWith('Username: Password: \nLogin Succeeded\n')).toBe(true)
  })

  test('logs out of nothing with an error', () => {
    expect(client(['logout', registry.host])).toEqual({
      status: 1,
      stdout: '\nLogout Failed\n\n',
      stderr: `Not logged in registry ${registry.host}\n`,
    })
  })

  test('brings logins of its own', () => {
    expect(ctrImg('push', '--creds', creds, 'base:1', name()).status).toBe(0)
    const file = join(bench.work, 'auth.json')
    const auth = Buffer.from(creds).toString('base64')
    writeFileSync(file, JSON.stringify({ auths: { [registry.host]: { auth } } }), { mode: 0o600 })
    expect(ctrImg('pull', '--policy=always', '--authfile', file, name()).status).toBe(0)
    mkdirSync(join(home, '.docker'), { recursive: true })
    writeFileSync(join(home, '.docker/config.json'), readFileSync(file), { mode: 0o600 })
    expect(ctrImg('pull', '--policy=always', name()).status).toBe(0)
    // What was named for this command comes first, also when it is wrong.
    expect(ctrImg('pull', '--policy=always', '--creds=tester:wrong', name()).status).toBe(1)
    writeFileSync(join(home, '.docker/config.json'), '{}')
    expect(ctrImg('pull', '--policy=always', name()).status).toBe(1)
  })

  test('brings them to a build', () => {
    expect(ctrImg('push', '--creds', creds, 'base:1', name()).status).toBe(0)
    ctrImg('rm', name())
    const context = bench.context({ Dockerfile: `FROM ${name()}\nENV A=1\n` })
    const denied = ctrImg('build', '--no-cache', '--pull', context)
    expect(denied.status).toBe(1)
    expect(denied.stderr).toContain(registry.host)
    // Whoever wrote the Dockerfile chose the registry; who builds names it, too.
    expect(ctrImg('build', '--pull', '--creds', creds, context).stderr).toContain('it names none')
    const tag = `${registry.host}/team/built:1`
    const built = ctrImg('build', '--pull', '--creds', creds, '-t', tag, context)
    expect([built.status, built.stderr]).toEqual([0, ''])
  })

  test('leaves no password behind', () => {
    ctrImg('pull', '--creds', 'tester:canary-of-creds', name())
    client(['login', '-u', username, '-p', registry.host], 'canary-of-login')
    const log = readFileSync(bench.daemon.log, 'utf8')
    expect(log).not.toContain('canary')
    expect(log).not.toContain(Buffer.from('tester:canary').toString('base64').slice(0, 16))
  })
})

describe('the client of the original', () => {
  const sealed = (text: string): string => {
    const pem = readFileSync(join(bench.daemon.directory, 'etc/isula-build.pub'), 'utf8')
    const body = pem.replaceAll('RSA PUBLIC KEY', 'PUBLIC KEY')
    const padding = { padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: 'sha512' }
    return publicEncrypt({ key: createPublicKey(body), ...padding }, Buffer.from(text)).toString('hex')
  }

  test('logs in, pulls, pushes and logs out', async () => {
    const control = connectClient(bench.daemon.socket)
    try {
      const server = registry.host
      const existing = await failure(control.unary(controlService.Login, { server }))
      expect(existing.message).toContain('Failed to authenticate existing credentials')
      const wrong = { server, username, password: sealed('wrong') }
      expect((await failure(control.unary(controlService.Login, wrong))).code).toBe('ISB_REGISTRY_DENIED')
      const right = { server, username, password: sealed(password) }
      expect(await control.unary(controlService.Login, right)).toEqual({ content: 'Login Succeeded' })
      expect(await control.unary(controlService.Login, { server })).toEqual({
        content: 'Login Succeed with AuthFile',
      })
      await control.unary(controlService.Tag, { image: 'base:1', tag: name() })
      const push = { pushID: 'p', imageName: name(), format: 'docker' }
      const pushed = await all(control.stream(controlService.Push, push))
      expect(pushed.map(({ response }) => response).join('')).toMatch(/^(.+\n)+$/)
      await all(control.stream(controlService.Remove, { imageID: [name()] }))
      const pulled = await all(control.stream(controlService.Pull, { pullID: 'p', imageName: name() }))
      expect(pulled.every(({ response }) => response.endsWith('\n'))).toBe(true)
      expect(ctrImg('images', '-q', name()).status).toBe(0)
      expect(await control.unary(controlService.Logout, { server })).toEqual({
        result: `Removed authentication for ${server}`,
      })
      expect((await failure(control.unary(controlService.Logout, { server }))).message).toBe(
        `Not logged in registry ${server}`,
      )
    } finally {
      control.close()
    }
  })
})
