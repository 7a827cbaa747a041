import { constants, createPublicKey, publicEncrypt, randomBytes } from 'node:crypto'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { controlService } from '../../packages/shared/src/rpc/control.js'
import { filesHolding } from '../support/hostile-bench.js'
import { createRightsBench, type RightsBench, type TestUser, userCall } from '../support/rights-bench.js'

/** What a user gives in confidence is found nowhere afterwards (MU10, S23, S24). */

const isRoot = process.getuid?.() === 0
const word = (what: string): string => `planted-${what}-${randomBytes(12).toString('hex')}`

/** None of these may be found, but for the values a RUN was given as an ARG of its own. */
const planted = {
  file: word('file'),
  variable: word('variable'),
  proxy: word('proxy'),
  daemonProxy: word('daemon-proxy'),
  closed: word('closed'),
  url: word('url'),
  unused: word('unused'),
  environment: word('environment'),
}

/** Command lines of every process, as anybody may read them. */
function commandLines(): string {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'latin1')
      } catch {
        return ''
      }
    })
    .join('\n')
}

describe.skipIf(!isRoot)('secrets', () => {
  let rights: RightsBench
  let alice: TestUser
  let server: Server
  let address: string

  beforeAll(async () => {
    server = createServer((request, response) => {
      response.statusCode = request.url === '/ok' ? 200 : 404
      response.end('body')
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    address = `127.0.0.1:${(server.address() as AddressInfo).port}`
    rights = await createRightsBench('', {
      http_proxy: `http://me:${planted.daemonProxy}@127.0.0.1:9`,
      no_proxy: '127.0.0.1',
      CANARY_ENV: planted.environment,
    })
    alice = rights.alice
  })
  afterAll(async () => {
    server?.close()
    await rights?.[Symbol.asyncDispose]()
  })

  function expectNowhere(words: readonly string[] = Object.values(planted)): void {
    const { daemon, data, run } = {
      ...rights.bench,
      data: rights.bench.daemon.data,
      run: rights.bench.daemon.run,
    }
    for (const one of words) {
      expect(filesHolding(daemon.directory, one), one).toEqual([])
      for (const root of [data, run]) expect(filesHolding(root, one), one).toEqual([])
      expect(readFileSync(daemon.log, 'latin1').includes(one), `${one} in the log`).toBe(false)
    }
  }

  const dockerfile = (last: string): string =>
    [
      'FROM base:1',
      'ARG UNUSED',
      'RUN --mount=type=secret,id=file --mount=type=secret,id=variable,env=V test "$(cat /run/secrets/file | head -c 8)$(echo "$V" | head -c 8)" = planted-planted-',
      'RUN echo "$http_proxy$https_proxy" | head -c 4',
      last,
    ].join('\n')

  function secretFile(): string {
    const path = join(alice.home, rights.fresh('secret'))
    writeFileSync(path, planted.file)
    return path
  }

  async function build(last: string, ...more: readonly string[]) {
    const context = rights.context(alice, dockerfile(last))
    const secrets = ['--secret', `id=file,src=${secretFile()}`, '--secret', 'id=variable,env=VARIABLE']
    const proxies = ['--build-arg', `https_proxy=http://me:${planted.proxy}@127.0.0.1:9`]
    const args = ['ctr-img', 'build', '--no-cache', ...secrets, ...proxies, ...more, context]
    return rights.client(alice, args, { env: { VARIABLE: planted.variable } })
  }

  test('are nowhere after a build that works, nor in its image', async () => {
    const output = join(alice.home, 'secret.tar')
    const { status, stdout, stderr } = await build('RUN true', '-o', `docker-archive:${output}:secret:1`)
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
    for (const one of Object.values(planted)) {
      expect(stdout).not.toContain(one)
      expect(readFileSync(output).includes(one), one).toBe(false)
    }
    expectNowhere()
  })

  test('are nowhere after a build that fails', async () => {
    const { status, stdout, stderr } = await build('RUN exit 7')
    expect(status).toBe(7)
    for (const one of Object.values(planted)) expect(stdout + stderr).not.toContain(one)
    expectNowhere()
  })

  test('of a URL are shown and kept nowhere', async () => {
    for (const path of ['/ok', '/missing']) {
      const add = `ADD http://me:${planted.url}@${address}${path} /x`
      const { status, stdout, stderr } = await rights.client(alice, [
        'ctr-img',
        'build',
        '-t',
        'url:1',
        rights.context(alice, `FROM base:1\n${add}\n`),
      ])
      expect(status).toBe(path === '/ok' ? 0 : 1)
      expect(stderr).not.toContain(planted.url)
      expect(stdout).not.toContain(planted.url)
    }
    expectNowhere([planted.url])
  })

  test('that the original closed with the key are opened for the RUN alone', async () => {
    const pem = readFileSync(join(rights.work, 'etc/isula-build.pub'), 'utf8')
    const body = /KEY-----\n([\s\S]+)-----END/.exec(pem)?.[1] ?? ''
    const key = createPublicKey({ key: Buffer.from(body, 'base64'), format: 'der', type: 'spki' })
    const padding = constants.RSA_PKCS1_OAEP_PADDING
    const closed = publicEncrypt(
      { key, padding, oaepHash: 'sha512' },
      Buffer.from(`https_proxy=http://a:${planted.closed}@127.0.0.1:9`),
    )
    const { code, log } = await rights.control(alice, {
      ...{ contextDir: rights.context(alice, ''), encrypted: true, buildArgs: [closed.toString('hex')] },
      fileContent: 'FROM base:1\nRUN echo "$https_proxy" | head -c 9; echo\n',
    })
    expect({ code, log }).toMatchObject({ code: 0, log: expect.stringContaining('http://a:') })
    expectNowhere([planted.closed])
  })

  test('the environment of the daemon reaches no RUN', async () => {
    const context = rights.context(alice, 'FROM base:1\nRUN cat /proc/self/environ\n')
    const stdout = await rights.accepted(alice, 'ctr-img', 'build', '--no-cache', '--proxy=false', context)
    for (const name of ['CANARY_ENV', planted.environment, planted.daemonProxy])
      expect(stdout).not.toContain(name)
  })

  test('are in no file and no command line while a RUN has them, nor after it was cancelled', async () => {
    const buildID = rights.fresh('cancelled')
    const running = rights.calls(alice, [
      userCall(
        controlService.Build,
        [
          {
            ...{ buildID, buildType: 'ctr-img', contextDir: alice.home, proxy: true },
            fileContent: 'FROM base:1\nRUN sleep 60\n',
            buildArgs: [`https_proxy=http://me:${planted.proxy}@127.0.0.1:9`],
          },
        ],
        { patience: 3000 },
      ),
      userCall(controlService.Status, [{ buildID }], { patience: 3000 }),
    ])
    const slow = build('RUN --mount=type=secret,id=file sleep 3')
    await sleep(2000)
    const lines = commandLines()
    for (const one of [planted.file, planted.variable, planted.daemonProxy]) expect(lines).not.toContain(one)
    for (const one of [planted.file, planted.variable]) expectNowhere([one])
    expect((await slow).status).toBe(0)
    await running
    await rights.expectUnharmed()
    expectNowhere()
  })

  test('are nowhere after the daemon was killed in the middle', async () => {
    const slow = build('RUN --mount=type=secret,id=file sleep 30')
    await sleep(1800)
    await rights.bench.kill('SIGKILL')
    await slow
    await rights.bench.restart()
    await sleep(500)
    expectNowhere()
  })
})
