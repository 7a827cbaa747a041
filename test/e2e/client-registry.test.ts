import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { createEdgeBench, type EdgeBench, until } from '../support/edge-bench.js'

const imageId = 'a'.repeat(64)
const digest = `sha256:${'d'.repeat(64)}`

let bench: EdgeBench
beforeAll(async () => {
  bench = await createEdgeBench()
})
afterAll(() => bench[Symbol.asyncDispose]())
beforeEach(() => {
  bench.core.calls.length = 0
})

const ctrImg = (args: readonly string[], options?: Parameters<EdgeBench['run']>[1]) =>
  bench.run(['ctr-img', ...args], options)
const done = (stdout: string) => ({ status: 0, stdout, stderr: '' })
const base64 = (text: string): string => Buffer.from(text).toString('base64')

describe('pull', () => {
  test('prints what the original prints', async () => {
    expect(await ctrImg(['pull', 'h:5000/a:1'])).toEqual(
      done('pull h:5000/a:1\nPull success with image: h:5000/a:1\n'),
    )
    expect(await ctrImg(['pull', '-q', 'a'])).toEqual(done(`${imageId}\n`))
    const { status, stdout, stderr } = await ctrImg(['pull', 'denied'])
    expect([status, stdout, stderr]).toEqual([
      1,
      'pull denied\n',
      'pull image failed: the registry says no\n',
    ])
  })

  test('passes its flags on', async () => {
    await ctrImg(['pull', 'docker://h/a', '--platform=linux/arm64,linux/amd64', '--platform', 'linux/s390x'])
    await ctrImg(['pull', 'a', '--all-platforms', '--policy=always', '--tls-verify=false'])
    await ctrImg(['pull', 'a', '--tls-verify', '--retry=0', '--retry-delay=1m'])
    const transfer = { tlsVerify: undefined, retries: undefined, retryDelay: undefined }
    expect(bench.core.calls).toMatchObject([
      [
        'pull',
        {
          reference: 'docker://h/a',
          platforms: ['linux/arm64', 'linux/amd64', 'linux/s390x'],
          policy: 'newer',
          transfer,
        },
      ],
      ['pull', { platforms: 'all', policy: 'always', transfer: { ...transfer, tlsVerify: false } }],
      ['pull', { platforms: [], transfer: { tlsVerify: true, retries: 0, retryDelay: 60_000 } }],
    ])
  })

  test.each([
    [[], 'pull requires exactly one argument'],
    [['a', 'b'], 'pull requires exactly one argument'],
    [['a', '--platform=x', '--all-platforms'], '--platform is not allowed when using --all-platforms'],
    [['a', '--policy=x'], 'invalid argument "x" for "--policy" flag: missing, newer, always, never expected'],
    [['a', '--creds', ':p'], '--creds has no user name, expected USER[:PASSWORD]'],
    [['a', '--creds', 'u'], '--creds without a password needs a terminal'],
    [['a', '--authfile=/missing'], 'open /missing: no such file or directory'],
  ])('%j is refused', async (args, message) => {
    const { status, stdout, stderr } = await ctrImg(['pull', ...args])
    expect([status, stdout, stderr.split('\n')[0]]).toEqual([1, '', message])
    expect(bench.core.calls).toEqual([])
  })
})

describe('push', () => {
  test('prints what the original prints, and the digest where it is wanted', async () => {
    expect(await ctrImg(['push', 'h/a:1'])).toEqual(done('push h/a:1\nPush success with image: h/a:1\n'))
    const file = join(bench.work, 'digest')
    expect(await ctrImg(['push', '-q', '--digestfile', file, 'a', 'docker://h/b'])).toEqual(
      done(`${digest}\n`),
    )
    expect(readFileSync(file, 'utf8')).toBe(digest)
    expect((await ctrImg(['push', 'denied'])).stderr).toBe('push image failed: the registry says no\n')
    expect(bench.core.calls[1]).toMatchObject(['push', { image: 'a', destination: 'docker://h/b' }])
  })

  test('has the format of the flag, else of the environment', async () => {
    const experimental = { env: { ISULABUILD_CLI_EXPERIMENTAL: 'enabled' } }
    await ctrImg(['push', 'a'])
    await ctrImg(['push', 'a'], experimental)
    await ctrImg(['push', 'a', '-f', 'docker', '--compression=gzip:9'], experimental)
    expect(bench.core.calls.map((call) => (call as [string, { push: unknown }])[1].push)).toEqual([
      { format: undefined, compression: undefined, level: undefined },
      { format: 'oci', compression: undefined, level: undefined },
      { format: 'docker', compression: 'gzip', level: 9 },
    ])
  })

  test.each([
    [[], 'push requires one or two arguments'],
    [['a', 'b', 'c'], 'push requires one or two arguments'],
    [['a', '-f', 'zip'], 'image format "zip" is not supported'],
    [['a', '--compression=lzma'], 'compression "lzma" is not supported'],
    [
      ['a', '--digestfile=/missing/file'],
      'cannot write the digest: access /missing/file: no such file or directory',
    ],
  ])('%j is refused', async (args, message) => {
    const { status, stdout, stderr } = await ctrImg(['push', ...args])
    expect([status, stdout, stderr.split('\n')[0]]).toEqual([1, '', message])
    expect(bench.core.calls).toEqual([])
  })
})

describe('logins of the user', () => {
  const login = (stdout: string) => stdout.split('\n').filter((line) => line.startsWith('login '))

  test('go to the registry that the command names, and to no other', async () => {
    const { stdout } = await ctrImg(['pull', 'h.io/x+ask-h.io+ask-evil.io', '--creds', 'u:p:q'])
    expect(login(stdout)).toEqual(['login {"username":"u","password":"p:q","explicit":true}', 'login none'])
  })

  test('come from the files of other tools', async () => {
    const file = join(bench.work, 'auth.json')
    writeFileSync(file, JSON.stringify({ auths: { 'ask-h': {}, h: { auth: base64('file:p') } } }))
    chmodSync(file, 0o600)
    const explicit = ['login {"username":"file","password":"p","explicit":true}']
    expect(login((await ctrImg(['pull', 'ask-h', '--authfile', file])).stdout)).toEqual(explicit)
    const env = { REGISTRY_AUTH_FILE: file }
    expect(login((await ctrImg(['pull', 'ask-h'], { env })).stdout)).toEqual(explicit)

    const docker = join(bench.work, '.docker')
    mkdirSync(docker)
    writeFileSync(join(docker, 'config.json'), JSON.stringify({ credsStore: 'test' }), { mode: 0o600 })
    const helper = join(bench.work, 'docker-credential-test')
    writeFileSync(
      helper,
      '#!/bin/sh\nread -r key\necho "{\\"Username\\":\\"helped\\",\\"Secret\\":\\"$key\\"}"\n',
    )
    chmodSync(helper, 0o755)
    const path = { PATH: `${bench.work}:${process.env['PATH']}` }
    expect(login((await ctrImg(['pull', 'ask-h'], { env: path })).stdout)).toEqual([
      'login {"username":"helped","password":"h","explicit":false}',
    ])
  })

  test('are asked for in a build too', async () => {
    const input = 'LOGIN h.io r\nLOGIN h.io r'
    const named = ['-t', 'h.io/app:1', '.']
    const { stdout } = await ctrImg(['build', '-f', '-', '--creds=u:p', ...named], { input })
    expect(stdout.split('{"username":"u","password":"p","explicit":true}')).toHaveLength(3)
    expect(bench.core.started[0]?.options).toMatchObject({ pull: 'missing', platforms: [] })
  })

  test('given on the command line are not for registries of a Dockerfile', async () => {
    const input = 'LOGIN h r'
    const refused = await ctrImg(['build', '-f', '-', '--creds=u:p', '.'], { input })
    expect([refused.status, refused.stderr.split('\n')[0]]).toEqual([
      1,
      '--creds is for a registry that the command names, and it names none',
    ])
    const { stdout, stderr } = await ctrImg(['build', '-f', '-', '--creds=u:p', '-t', 'other.io/a', '.'], {
      input,
    })
    expect(stdout).not.toContain('"u"')
    expect(stderr).toContain('--creds is not sent to h, which the command does not name')
  })

  test('given on the command line are not shown to others', async () => {
    const running = bench.start(['ctr-img', 'pull', 'wait', '--creds', 'u:canary'])
    await until(running, 'pull wait')
    const line = readFileSync(`/proc/${running.pid}/cmdline`, 'utf8')
    process.kill(running.pid)
    await running.finished
    expect(line).not.toContain('canary')
  })
})

test('build passes the flags about registries on', async () => {
  const input = 'SAY x'
  const build = (...args: readonly string[]) => ctrImg(['build', '-f', '-', ...args, '.'], { input })
  const before = bench.core.started.length
  await build('--pull', '--platform=linux/arm64,linux/amd64', '--retry=7')
  await build('--pull=never')
  expect((await build('--pull=x')).stderr).toContain('for "--pull" flag')
  expect(bench.core.started.slice(before).map(({ options }) => options)).toMatchObject([
    { pull: 'always', platforms: ['linux/arm64', 'linux/amd64'], transfer: { retries: 7 } },
    { pull: 'never', platforms: [] },
  ])
})

describe('login', () => {
  test('tries what is kept first', async () => {
    expect(await bench.run(['login', 'https://h.io/v1/'])).toEqual(
      done('try to login with existing credentials...\n\nLogin Succeed with AuthFile\n'),
    )
    expect(bench.core.calls).toMatchObject([['login', { server: 'h.io', credentials: undefined }]])
  })

  test('takes the password from standard input', async () => {
    const args = ['login', '-u', 'cooper', '-p', 'h.io:5000']
    expect(await bench.run(args, { input: 'pass word\n' })).toEqual(done('Login Succeeded\n'))
    const credentials = { username: 'cooper', password: 'pass word' }
    expect(bench.core.calls).toMatchObject([['login', { server: 'h.io:5000', credentials }]])
  })

  test('asks line by line where there is no terminal', async () => {
    const { status, stdout, stderr } = await bench.run(['login', 'denied'], { input: 'user\npass\n' })
    expect([status, stdout, stderr]).toEqual([
      1,
      'try to login with existing credentials...\n\n' +
        'Failed to authenticate existing credentials, please input auth info directly\n\n' +
        'Username: Password: \n\nLogin Failed\n\n',
      'the registry says no\n',
    ])
    expect(bench.core.calls.at(-1)).toMatchObject([
      'login',
      { credentials: { username: 'user', password: 'pass' } },
    ])
  })

  test('does not show the password on a terminal', async () => {
    const running = bench.terminal('client login -u cooper h.io; stty')
    await until(running, 'Password: ')
    running.write('canary\r')
    const { stdout } = await running.finished
    expect(stdout).toContain('Password: \r\nLogin Succeeded\r\n')
    expect(stdout).not.toContain('canary')
    expect(stdout).not.toMatch(/-(echo|icanon|isig)\b/)
    expect(bench.core.calls).toMatchObject([['login', { credentials: { password: 'canary' } }]])
  })

  test('leaves the terminal as it was after Ctrl-C', async () => {
    const running = bench.terminal('client login -u cooper h.io; echo "status $?"; stty')
    await until(running, 'Password: ')
    running.write('canary\u0003')
    const { stdout } = await running.finished
    expect(stdout).toContain('status 130')
    expect(stdout).not.toContain('canary')
    expect(stdout).not.toMatch(/-(echo|icanon|isig)\b/)
    expect(bench.core.calls).toEqual([])
  })

  test('asks for the password of --creds on a terminal', async () => {
    const running = bench.terminal('client ctr-img pull localhost/x+ask-localhost --creds cooper')
    await until(running, 'Password for cooper: ')
    running.write('canary\r')
    const { stdout } = await running.finished
    expect(stdout).toContain('login {"username":"cooper","password":"canary","explicit":true}')
  })

  test.each([
    [['login'], 'empty registry found, please input one registry'],
    [['login', 'a.io', 'b.io'], 'too many arguments, login only accepts 1 argument'],
    [['login', '-p', 'a.io'], 'must provides --password-stdin with --username'],
    [['login', '-u', ' ', 'a.io'], 'username can not be empty'],
    [['login', '-u', 'u', '-p', 'a.io'], 'auth info can not be empty'],
    [['login', '-u', 'u', 'a.io'], 'could not read password from terminal'],
    [['login', '../../etc'], 'invalid relative path detected'],
    [['login', 'a/b'], 'invalid registry address "a/b"'],
    [['login', '--password=x', 'a.io'], 'unknown flag: --password'],
    [['logout'], 'empty registry found, please input one registry'],
    [['logout', 'a.io', 'b.io'], 'too many arguments, login only accepts 1 argument'],
  ])('%j is refused', async (args, message) => {
    const { status, stderr } = await bench.run(args)
    expect([status, stderr.split('\n')[0]]).toEqual([1, message])
    expect(bench.core.calls).toEqual([])
  })

  test('points to where a password may be given', async () => {
    expect((await bench.run(['login', '--password', 'x', 'a.io'])).stderr).toContain('--password-stdin')
  })
})

test('logout says what it removed', async () => {
  expect(await bench.run(['logout', 'https://h.io/'])).toEqual(done('Removed authentication for h.io\n'))
  expect(await bench.run(['logout', '-a'])).toEqual(done('Removed authentications\n'))
  expect(bench.core.calls).toEqual([
    ['logout', { kind: 'server', server: 'h.io' }],
    ['logout', { kind: 'all' }],
  ])
})

describe('manifest', () => {
  const manifest = (...args: readonly string[]) => bench.run(['manifest', ...args])

  test('prints what the original prints', async () => {
    expect(await manifest('create', 'l', 'h/a', 'h/b')).toEqual(done(`${imageId}\n`))
    expect(await manifest('annotate', 'l', 'h/a', '--arch', 'arm64', '--os-features=a,b')).toEqual(
      done('Annotate manifest succeed\n'),
    )
    expect(await manifest('inspect', 'l')).toEqual(done('{\n    "name": "l"\n}\n'))
    expect(await manifest('push', 'l', 'h/l:1')).toEqual(done('pushList l\nPush manifest list l succeed\n'))
    expect(await manifest('rm', 'l', 'm')).toEqual(
      done('Deleted manifest list: l\nDeleted manifest list: m\n'),
    )
    expect(bench.core.calls).toMatchObject([
      ['createList', { name: 'l', images: ['h/a', 'h/b'], format: 'docker', all: false, amend: false }],
      ['annotateList', { list: 'l', image: 'h/a', architecture: 'arm64', osFeatures: ['a', 'b'] }],
      ['pushList', { list: 'l', destination: 'h/l:1', format: undefined, all: true, purge: false }],
      ['removeList', 'l'],
      ['removeList', 'm'],
    ])
  })

  test('passes its other flags on', async () => {
    await manifest('create', '--amend', '-a', '-f', 'oci', 'l')
    await manifest('annotate', 'l', 'h/a', '--annotation', 'k=v=w', '--os-version=1')
    const file = join(bench.work, 'list-digest')
    const push = await manifest(
      'push',
      '-q',
      '--all=false',
      '--purge',
      '-f',
      'oci',
      '--digestfile',
      file,
      'l',
      'd',
    )
    expect([push.stdout, readFileSync(file, 'utf8')]).toEqual([`${digest}\n`, digest])
    expect(bench.core.calls).toMatchObject([
      ['createList', { images: [], format: 'oci', all: true, amend: true }],
      ['annotateList', { annotations: { k: 'v=w' }, osVersion: '1' }],
      ['pushList', { format: 'oci', all: false, purge: true }],
    ])
  })

  test.each([
    [['create'], 'please specify a name to manifest list'],
    [['annotate', 'l'], 'please specify the manifest list and the image name'],
    [['annotate', 'l', 'a', 'b'], 'please specify the manifest list and the image name'],
    [['annotate', 'l', 'a', '--annotation=k'], 'invalid annotation "k", expected KEY=VALUE'],
    [['inspect'], 'please specify the manifest list name'],
    [['inspect', 'l', 'm'], 'only one manifest list can be specified'],
    [['push', 'l'], 'please specify the manifest list name and destination repository'],
    [['rm'], 'please specify the manifest list name'],
  ])('%j is refused', async (args, message) => {
    const { status, stderr } = await manifest(...args)
    expect([status, stderr.split('\n')[0]]).toEqual([1, message])
    expect(bench.core.calls).toEqual([])
  })
})

test('a terminal shows how far a transfer is, and nothing of it stays', async () => {
  const running = bench.terminal('client ctr-img pull a')
  const { stdout } = await running.finished
  expect(stdout).toContain('1 B / 2 B  dddddddddddd 50%\r\u001b[K')
  expect(stdout.endsWith('\r\u001b[KPull success with image: a\r\n')).toBe(true)
  expect(existsSync(join(bench.work, 'typescript'))).toBe(false)
})
