import { spawn } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { type ControlBench, createControlBench, newId, user } from '../support/control-bench.js'
import { type OwnDocker, runTool, skopeo, startDocker, umoci, unmountBelow } from '../support/judges.js'
import { text } from '../support/proto-bytes.js'
import { type RealRegistry, startRealRegistry } from '../support/real-registry.js'
import { treeListing } from '../support/tree-listing.js'

// Images handed to dockerd, iSulad, registries and directories as they are built, by our client and the original's.

let own: OwnDocker
let registry: RealRegistry
let bench: ControlBench
/** What the stand-in for `isula` was told and given, of its last call. */
let told: string

const dockerfile = `FROM base:1
RUN mkdir /tree && echo one > /tree/one && ln /tree/one /tree/two && ln -s ../etc /tree/link && rm /etc/group
RUN mkdir /tree/closed && echo in > /tree/closed/in && chmod 555 /tree/closed && chown 70:80 /tree/one
CMD ["/bin/echo", "handed over"]
`

beforeAll(async () => {
  own = await startDocker()
  registry = await startRealRegistry()
  bench = await createControlBench({
    configuration: (work) => `[engines]
docker_socket = "${own.socket}"
isula_socket = "${work}/isulad.sock"
isula = "${work}/bin/isula"
`,
  })
  const { work, daemon } = bench
  told = join(work, 'told')
  mkdirSync(join(work, 'bin'))
  writeFileSync(join(work, 'isulad.sock'), '', { mode: 0o600 })
  chmodSync(join(work, 'isulad.sock'), 0o600)
  const registries = join(daemon.directory, 'etc/registries.toml')
  writeFileSync(registries, `[[registry]]\nlocation = "${registry.host}"\ninsecure = true\n`)
  daemon.child?.kill('SIGHUP')
  writeFileSync(join(work, 'context/Dockerfile'), dockerfile)
})

afterAll(async () => {
  await bench?.stop()
  await registry?.[Symbol.asyncDispose]()
  if (own !== undefined) await own[Symbol.asyncDispose]()
})

beforeEach(() => {
  rmSync(told, { recursive: true, force: true })
  mkdirSync(told)
  isula('exit 0')
})

/** The stand-in keeps its arguments, the file and its mode, then does what the script says. */
function isula(script: string): void {
  const path = join(bench.work, 'bin/isula')
  writeFileSync(
    path,
    `#!/bin/sh
printf '%s\\n' "$@" > ${told}/argv
cp "$3" ${told}/file.tar
stat -c '%a %u' "$3" > ${told}/stat
${script}
`,
  )
  chmodSync(path, 0o755)
}

interface As {
  readonly uid?: number
  readonly gid?: number
}

function client(args: readonly string[], as: As = {}) {
  const { work, daemon } = bench
  mkdirSync(join(work, 'client-tmp'), { recursive: true })
  const env = {
    DOCKER_HOST: `unix://${own.socket}`,
    PATH: `${work}/bin:${process.env['PATH']}`,
    TMPDIR: join(work, 'client-tmp'),
  }
  return daemon.image(args, { cwd: work, env, timeout: 120_000, ...as })
}

function built(...args: readonly string[]): string {
  const { status, stdout, stderr } = client(['build', ...args, join(bench.work, 'context')])
  if (status !== 0) throw new Error(`build ${args.join(' ')}: ${status}\n${stdout}${stderr}`)
  return stdout
}

function refused(...args: readonly string[]): string {
  const { status, stderr } = client(['build', ...args, join(bench.work, 'context')])
  expect(status).not.toBe(0)
  return stderr
}

const argv = (): readonly string[] => readFileSync(join(told, 'argv'), 'utf8').trim().split('\n')
const idIn = (log: string): string => /image id: ([0-9a-f]{64})/.exec(log)?.[1] ?? 'none'
const run = (name: string): string => own.docker('run', '--rm', '--network=none', name)

describe('dockerd', () => {
  test('gets the image from our client and runs it', () => {
    const log = built('-o', 'docker-daemon:handed/over:1')
    expect(log).toContain('Exported to docker-daemon:handed/over:1\n')
    expect(own.docker('inspect', '-f', '{{.Id}}', 'handed/over:1').trim()).toBe(`sha256:${idIn(log)}`)
    expect(run('handed/over:1')).toBe('handed over\n')
  })

  test('gets it under all names of type=docker', () => {
    built('-t', 'many:1', '-t', 'localhost:5000/many:2', '-o', 'type=docker')
    for (const name of ['many:1', 'localhost:5000/many:2']) expect(run(name)).toBe('handed over\n')
  })

  test("gets it from the original's client through the daemon", async () => {
    const { id } = await bench.built({ content: dockerfile, output: 'docker-daemon:original:1' })
    expect(own.docker('inspect', '-f', '{{.Id}}', 'original:1').trim()).toBe(`sha256:${id}`)
    expect(run('original:1')).toBe('handed over\n')
    expect((await bench.list('original:1')).map((row) => row.id)).toEqual([id])
  })

  test('is refused to a user who may not write to its socket', async () => {
    expect(await asUser('docker-daemon:users:1')).toMatchObject({
      code: 7,
      details: expect.stringContaining('may not use dockerd'),
    })
    expect(own.docker('images', '-q', 'users')).toBe('')
    const { status, stderr } = client(['build', '-o', 'docker-daemon:users:1', 'context'], user)
    expect(status).toBe(1)
    expect(stderr).toContain('permission denied')
  })

  test('is open to a user who may write to its socket', async () => {
    const { gid, mode } = statSync(own.socket)
    const home = join(own.socket, '..')
    const { mode: homeMode } = statSync(home)
    chownSync(own.socket, 0, user.gid)
    chmodSync(own.socket, 0o660)
    try {
      expect(await asUser('docker-daemon:users:2')).toMatchObject({ code: 7 })
      chmodSync(home, 0o711)
      expect(await asUser('docker-daemon:users:2')).toEqual({ code: 0, details: '' })
      expect(run('users:2')).toBe('handed over\n')
    } finally {
      chownSync(own.socket, 0, gid)
      chmodSync(own.socket, mode & 0o777)
      chmodSync(home, homeMode & 0o777)
    }
  })

  test('that is not there is told before anything is built', () => {
    const { daemon, work } = bench
    const env = { DOCKER_HOST: `unix://${work}/nothing.sock` }
    const end = daemon.image(['build', '-o', 'docker-daemon:a:1', 'context'], { cwd: work, env })
    expect([end.status, end.stdout]).toEqual([1, ''])
    expect(end.stderr).toContain(`dockerd at ${work}/nothing.sock is not running`)
    const remote = { DOCKER_HOST: 'tcp://127.0.0.1:1' }
    const other = daemon.image(['build', '-o', 'docker-daemon:a:1', 'context'], { cwd: work, env: remote })
    expect(other.stderr).toContain('not a unix socket')
  })
})

/** How a build of the original's client ends for a user, with the output. */
async function asUser(output: string) {
  const id = newId()
  const request = bench.request({ content: dockerfile, output }, id)
  const [end] = await bench.asUser([
    { kind: 'unary', method: 'Build', request: request.toString('hex') },
    { kind: 'stream', method: 'Status', request: text(1, id).toString('hex') },
  ])
  const { code, details } = end ?? { code: -1, details: '' }
  return { code, details }
}

describe('iSulad', () => {
  test('is given an archive by our client, which removes it', () => {
    const log = built('-o', 'isulad:handed:2')
    expect(log).toContain('Exported to isulad:handed:2\n')
    const [load, option, path = ''] = argv()
    expect([load, option, argv().length]).toEqual(['load', '-i', 3])
    expect(path).toMatch(new RegExp(`^${bench.work}/client-tmp/isula-build-tmp-[0-9a-f]{12}\\.tar$`))
    expect(readFileSync(join(told, 'stat'), 'utf8')).toBe('600 0\n')
    expect(readdirSync(join(bench.work, 'client-tmp'))).toEqual([])
    expectArchive('handed:2', idIn(log))
  })

  test("is given one by the daemon for the original's client", async () => {
    const { id, log } = await bench.built({
      content: dockerfile,
      id: 'abcdef012345',
      output: 'isulad:handed:3',
    })
    const path = argv().at(-1) ?? ''
    const directory = join(bench.daemon.data, 'tmp/abcdef012345')
    expect(path).toMatch(new RegExp(`^${directory}/isula-build-tmp-[0-9a-zA-Z]{12}\\.tar$`))
    expect(readFileSync(join(told, 'stat'), 'utf8')).toBe('644 0\n')
    expect(existsSync(directory)).toBe(false)
    expectArchive('handed:3', id)
    expect(log).not.toContain('STEP  5')
  })

  test('that refuses the image fails the build with what it said', async () => {
    isula('echo "Failed to load: no space" >&2; exit 7')
    expect(refused('-o', 'isulad:handed:4')).toContain('isula load ended with 7: Failed to load: no space')
    expect(readdirSync(join(bench.work, 'client-tmp'))).toEqual([])
    const { details } = await bench.build({ content: dockerfile, output: 'isulad:handed:4' })
    expect(details).toContain('isula load ended with 7: Failed to load: no space')
    expect(readdirSync(join(bench.daemon.data, 'tmp'))).toEqual([])
  })

  test('is refused to a user who may not write to its socket', async () => {
    const { code, details } = await asUser('isulad:users:1')
    expect(code).toBe(7)
    expect(details).toContain('may not use iSulad')
    expect(readdirSync(told)).toEqual([])
  })

  test('leaves no file behind when the client is told to stop', async () => {
    isula('exec sleep 60')
    const { work, daemon } = bench
    const env = {
      ...process.env,
      ISULABUILD_HOST: daemon.host,
      PATH: `${work}/bin:${process.env['PATH']}`,
      TMPDIR: join(work, 'client-tmp'),
    }
    const program = fileURLToPath(new URL('../../bin/ctr-img', import.meta.url))
    const child = spawn(program, ['build', '-o', 'isulad:stopped:1', 'context'], {
      cwd: work,
      env,
      stdio: 'ignore',
    })
    const ended = new Promise((resolve) => child.once('exit', (code) => resolve(code)))
    while (!existsSync(join(told, 'stat'))) await sleep(20)
    expect(readdirSync(join(work, 'client-tmp'))).toHaveLength(1)
    child.kill('SIGINT')
    expect(await ended).toBe(130)
    expect(readdirSync(join(work, 'client-tmp'))).toEqual([])
  })
})

/** skopeo reads in what iSulad was given the image under this name. */
function expectArchive(name: string, id: string): void {
  const file = join(told, 'file.tar')
  const inspected = JSON.parse(skopeo('inspect', '--raw', `docker-archive:${file}:${name}`)) as {
    readonly config: { readonly digest: string }
  }
  expect(inspected.config.digest).toBe(`sha256:${id}`)
}

describe('registries', () => {
  test.each([
    ['docker', 'application/vnd.docker.distribution.manifest.v2+json'],
    ['oci', 'application/vnd.oci.image.manifest.v1+json'],
  ])('get the image of %s://', (transport, mediaType) => {
    const log = built('-o', `${transport}://${registry.host}/out/${transport}:1`)
    expect(log).toMatch(/^STEP.*\nCopying blob .*\nExported to /s)
    expect(log).toContain(`Exported to ${registry.host}/out/${transport}:1@sha256:`)
    expect(pushed(`out/${transport}:1`)).toMatchObject({
      mediaType,
      config: { digest: `sha256:${idIn(log)}` },
    })
  })

  test('get it compressed as type=registry says', () => {
    const name = `${registry.host}/out/zstd:1`
    built('-o', `type=registry,name=${name},compression=zstd,compression-level=3,oci-mediatypes=true`)
    const { layers } = pushed('out/zstd:1')
    expect(new Set(layers.map((layer) => layer.mediaType))).toEqual(
      new Set(['application/vnd.oci.image.layer.v1.tar+zstd']),
    )
  })

  test("get it from the original's client", async () => {
    const { id } = await bench.built({ content: dockerfile, output: `docker://${registry.host}/out/v1:1` })
    expect(pushed('out/v1:1').config.digest).toBe(`sha256:${id}`)
  })
})

interface Manifest {
  readonly mediaType: string
  readonly config: { readonly digest: string }
  readonly layers: readonly { readonly mediaType: string }[]
}

function pushed(name: string): Manifest {
  return JSON.parse(skopeo('inspect', '--raw', '--tls-verify=false', `docker://${registry.host}/${name}`))
}

describe('directories', () => {
  let rootfs: readonly string[]

  beforeAll(() => {
    built('-o', 'oci-dir:layout:judged:1')
    const bundle = join(bench.work, 'bundle')
    umoci('unpack', '--image', `${join(bench.work, 'layout')}:judged:1`, bundle)
    rootfs = treeListing(join(bench.work, 'bundle/rootfs'))
  })

  afterAll(() => unmountBelow(bench.work))

  test('of type=local hold the tree that umoci unpacks', () => {
    const log = built('-o', 'files')
    expect(log).toContain(`Exported to local:${bench.work}/files\n`)
    expect(treeListing(join(bench.work, 'files'))).toEqual(rootfs)
    // Filled again, nothing changes.
    built('-o', 'type=local,dest=files')
    expect(treeListing(join(bench.work, 'files'))).toEqual(rootfs)
  })

  test('are what a tar of the files holds', () => {
    built('-o', 'type=tar,dest=files.tar')
    const target = join(bench.work, 'untarred')
    mkdirSync(target)
    runTool('tar', ['-C', target, '--xattrs', '--xattrs-include=*', '-xpf', join(bench.work, 'files.tar')])
    expect(treeListing(target)).toEqual(rootfs)
  })

  test('belong to the user who asked, without the rights of other owners', () => {
    const home = join(bench.work, 'users')
    const context = join(bench.work, 'context')
    const end = client(
      ['build', '-o', join(home, 'files'), '-o', `oci-dir:${join(home, 'layout')}`, context],
      user,
    )
    expect(end.stderr).toBe('')
    const owners = runTool('find', [home, '-printf', '%U:%G\n']).trim().split('\n')
    expect(new Set(owners)).toEqual(new Set([`${user.uid}:${user.gid}`]))
    expect(readFileSync(join(home, 'files/tree/closed/in'), 'utf8')).toBe('in\n')
    expect(statSync(join(home, 'files/tree/closed')).mode & 0o7777).toBe(0o555)
    expect(skopeo('inspect', `oci:${join(home, 'layout')}`)).toContain('"Digest"')
  })

  test('that hold something are no place for a layout', () => {
    expect(refused('-o', 'oci-dir:layout:other:1')).toContain('exists and is not empty')
  })

  test('get nothing through a link that is there', () => {
    const { work } = bench
    const outside = join(work, 'outside')
    mkdirSync(outside)
    mkdirSync(join(work, 'trap'))
    runTool('ln', ['-s', outside, join(work, 'trap/tree')])
    runTool('ln', ['-s', join(outside, 'passwd'), join(work, 'trap/etc')])
    built('-o', 'trap')
    expect(readdirSync(outside)).toEqual([])
    expect(treeListing(join(work, 'trap'))).toEqual(rootfs)
  })
})

test('what a killed daemon left for iSulad is gone when it is back', async () => {
  const { daemon } = bench
  const left = join(daemon.data, 'tmp/abcdef012345/isula-build-tmp-0123456789ab.tar')
  mkdirSync(join(left, '..'), { recursive: true })
  writeFileSync(left, 'half an archive')
  await daemon.kill('SIGKILL')
  await daemon.start()
  expect(existsSync(left)).toBe(false)
})
