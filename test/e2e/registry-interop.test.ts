import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdirSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { auditLines } from '../support/audit-lines.js'
import { type ClientBench, createClientBench } from '../support/client-bench.js'
import { type ContainerTools, createContainerTools } from '../support/container-tools.js'
import { eventually } from '../support/daemon-bench.js'
import { account } from '../support/real-registry.js'
import { type KindOfRegistry, registryKinds } from '../support/registry-kinds.js'
import { inspectStore } from '../support/store-inspection.js'

// All that is done with a registry, with each kind of registry.

const { username, password } = account

let bench: ClientBench
let tools: ContainerTools
let home: string

beforeAll(async () => {
  bench = await createClientBench()
  tools = createContainerTools(join(bench.work, 'tools'))
  home = join(bench.work, 'home')
  mkdirSync(home)
})

afterAll(async () => {
  tools?.[Symbol.dispose]()
  await bench?.[Symbol.asyncDispose]()
})

const env = (): Readonly<Record<string, string>> => ({
  HOME: home,
  XDG_RUNTIME_DIR: home,
  REGISTRY_AUTH_FILE: '',
})

function client(args: readonly string[], input = '') {
  const { status, stdout, stderr } = bench.daemon.client(args, { env: env(), input, timeout: 60_000 })
  return { status, stdout, stderr }
}

function ok(...args: readonly string[]): string {
  const { status, stdout, stderr } = client(['ctr-img', ...args])
  expect(`exit ${status}\n${status === 0 ? '' : stdout + stderr}`, args.join(' ')).toBe('exit 0\n')
  return stdout
}

/** Bytes of downloads that are not finished, or not used yet. */
function downloaded(): number {
  const directory = join(bench.daemon.data, 'downloads')
  if (!existsSync(directory)) return 0
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => statSync(join(entry.parentPath, entry.name), { throwIfNoEntry: false })?.size ?? 0)
    .reduce((sum, size) => sum + size, 0)
}

/** As the audit log has it. */
function pullsEnded(): number {
  const lines = auditLines(join(bench.daemon.data, 'audit.log'))
  return lines.filter(({ method }) => method === 'Pull').length
}

describe.each(Object.keys(registryKinds))('a registry with %s', (kind) => {
  let registry: KindOfRegistry
  let image: string
  const name = (repository: string): string => `${registry.host}/${repository}:1`

  beforeAll(async () => {
    const start = registryKinds[kind]
    if (start === undefined) throw new Error(kind)
    registry = await start({
      daemon: join(bench.daemon.directory, 'etc'),
      skopeo: join(bench.work, 'certificates'),
    })
    image = `made-${kind.length}:1`
    const context = bench.context({
      Dockerfile: `FROM base:1\nCOPY text /\nRUN echo ran > /ran\nCMD ["/bin/cat","/ran"]\n`,
      text: randomBytes(300_000).toString('hex'),
    })
    ok('build', '-q', '-t', image, context)
  })

  afterAll(async () => {
    await registry?.[Symbol.asyncDispose]()
  })

  test('lets in who has the right password, and no one else', () => {
    const login = (secret: string) => client(['login', '-u', username, '-p', registry.host], `${secret}\n`)
    if (registry.isPrivate) {
      const stranger = client(['ctr-img', 'push', image, name('team/app')])
      expect([stranger.status, stranger.stdout.includes('success')]).toEqual([1, false])
      expect(stranger.stderr).toContain(`isula-build login ${registry.host}`)
      const wrong = login('wrong')
      expect([wrong.status, wrong.stdout]).toEqual([1, '\nLogin Failed\n\n'])
    }
    expect(login(password)).toEqual({ status: 0, stdout: 'Login Succeeded\n', stderr: '' })
  })

  test('takes what is pushed, which skopeo finds there', () => {
    const digest = ok('push', '-q', image, name('team/app')).trim()
    const found = tools.skopeo('inspect', ...registry.skopeoFlags, `docker://${name('team/app')}`)
    expect(JSON.parse(found)).toMatchObject({ Digest: digest, RepoTags: ['1'] })
  })

  test('gives it back', async () => {
    const [id] = ok('images', '-q', image).split('\n')
    ok('rm', image)
    await bench.prune()
    const output = ok('pull', name('team/app'))
    // The other one is that of the base image.
    expect(output.match(/^Copying blob sha256:[0-9a-f]{64}$/gm)).toHaveLength(2)
    expect(output).toContain(`Pull success with image: ${name('team/app')}\n`)
    expect(ok('images', '-q', name('team/app')).split('\n')[0]).toBe(id)
    ok('tag', name('team/app'), image)
    ok('rm', name('team/app'))
  })

  test('has bases of builds', () => {
    const context = bench.context({
      Dockerfile: `FROM ${name('team/app')}\nRUN cat /ran\n`,
    })
    expect(ok('build', '--no-cache', '--pull', context)).toContain('\nran\n')
    const copied = bench.context({
      Dockerfile: `FROM base:1\nCOPY --from=${name('team/app')} /ran /copied\nRUN cat /copied\n`,
    })
    expect(ok('build', '--no-cache', copied)).toContain('\nran\n')
  })

  test('is told to mount what it has in another repository', async () => {
    const { length: before } = await registry.requests()
    const output = ok('push', image, name('team/mounted'))
    const mounted = output.match(/^Copying blob sha256:[0-9a-f]{64} skipped: mounted from team\/app$/gm)
    expect(mounted).toHaveLength(3)
    const requests = (await registry.requests()).slice(before)
    expect(requests.filter((request) => /^POST \S+[?&]mount=\S+ 201 /.test(request))).toHaveLength(3)
    const sent = requests.filter((request) => /^(PATCH|PUT) \S+\/uploads\//.test(request))
    // The config.
    expect(sent.length).toBeLessThanOrEqual(2)
    tools.skopeo('inspect', ...registry.skopeoFlags, `docker://${name('team/mounted')}`)
  })

  test('goes on with a pull that was interrupted where it stopped', async () => {
    const size = 96 << 20
    const context = bench.context({ Dockerfile: 'FROM base:1\nCOPY big /\n' })
    writeFileSync(join(context, 'big'), randomBytes(size))
    ok('build', '-q', '-t', 'big:1', context)
    ok('push', 'big:1', name('team/big'))
    ok('rm', 'big:1')
    await eventually(downloaded, (bytes) => bytes === 0)
    const args = ['ctr-img', 'pull', name('team/big')]
    const program = new URL('../../bin/isula-build', import.meta.url).pathname
    const pull = spawn(program, args, {
      env: { ...process.env, ...env(), ISULABUILD_HOST: bench.daemon.host },
      stdio: 'ignore',
    })
    const ended = once(pull, 'exit')
    const pulls = pullsEnded()
    const some = await eventually(downloaded, (bytes) => bytes > 1 << 20, 20_000)
    registry.hold()
    pull.kill('SIGKILL')
    await ended
    // Only when the daemon has given it up may the registry go on.
    expect(await eventually(pullsEnded, (count) => count > pulls, 20_000)).toBe(pulls + 1)
    registry.release()
    expect(some).toBeGreaterThan(1 << 20)
    const kept = downloaded()
    expect(kept).toBeGreaterThan(1 << 20)
    expect(kept, 'the pull was over before it could be interrupted').toBeLessThan(size)
    const { length: before } = await registry.requests()
    ok('pull', name('team/big'))
    const requests = (await registry.requests()).slice(before)
    const gets = requests.filter((request) => /^GET \S+\/blobs\/\S+ 206 /.test(request))
    expect(gets).toHaveLength(1)
    expect(Number(gets[0]?.split(' ').at(-1))).toBeLessThan(size - (1 << 20))
    expect(await eventually(downloaded, (bytes) => bytes === 0)).toBe(0)
    ok('rm', name('team/big'))
  })

  test('is closed again after the logout', () => {
    expect(client(['logout', registry.host])).toEqual({
      status: 0,
      stdout: `Removed authentication for ${registry.host}\n`,
      stderr: '',
    })
    const pull = client(['ctr-img', 'pull', '--policy=always', name('team/app')])
    if (registry.isPrivate) {
      expect([pull.status, pull.stdout.includes('success')]).toEqual([1, false])
      expect(pull.stderr).toContain(`isula-build login ${registry.host}`)
    } else expect([pull.status, pull.stderr]).toEqual([0, ''])
  })

  test('was asked for nothing that the specification forbids', async () => {
    expect((await registry.requests()).filter((request) => request.startsWith('VIOLATION'))).toEqual([])
  })
})

describe('a registry that wants certificates', () => {
  test('does not let in who has none', async () => {
    const start = registryKinds['TLS with client certificates']
    await using registry = await start?.({
      daemon: join(bench.work, 'not-the-daemons'),
      skopeo: join(bench.work, 'not-the-daemons'),
    })
    const { status, stderr } = client(['ctr-img', 'pull', `${registry?.host}/team/app:1`])
    expect(status).toBe(1)
    expect(stderr).toMatch(/certificate/)
  })
})

test('the store is sound after all of this', async () => {
  expect(await inspectStore(bench.daemon.data)).toEqual([])
})
