import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startDaemon, type TestDaemon } from '../../scripts/lib/daemon.mjs'
import { contentOfArchive, contentOfConfig } from '../support/image-contents.js'
import {
  containersTool,
  type OwnDocker,
  runTool,
  skopeo,
  startDocker,
  type Tool,
  umoci,
  unmountBelow,
} from '../support/judges.js'
import { makeOddImage, oddDockerfile, oddTreeFaults } from '../support/odd-image.js'
import { treeListing } from '../support/tree-listing.js'

// Whole images through a daemon: other tools take what we save, and we take what they save.

let work: string
let daemon: TestDaemon
let own: OwnDocker
let docker: Tool
let podman: Tool
let buildah: Tool
let rich = ''

const image: Tool = (...args) => {
  const { status, stdout, stderr } = daemon.image(args)
  if (status !== 0) throw new Error(`ctr-img ${args.join(' ')} failed:\n${stdout}${stderr}`)
  return stdout
}

const sh = (script: string, ...args: readonly string[]): string =>
  runTool('sh', ['-ec', script, 'sh', ...args])
const idIn = (log: string): string => log.match(/([0-9a-f]{64})"?\s*$/)?.[1] ?? 'no ID'

/** What a running container has of its own. */
const places = [
  'dev',
  'proc',
  'sys',
  '.dockerenv',
  'etc/hosts',
  'etc/hostname',
  'etc/resolv.conf',
  'etc/mtab',
]

beforeAll(async () => {
  work = mkdtempSync(join(tmpdir(), 'isula-judges-'))
  const { baseTar, context } = makeOddImage(work, 'base:1')
  writeFileSync(join(work, 'Buildahfile'), oddDockerfile('localhost/base:1'))
  daemon = await startDaemon()
  own = await startDocker()
  docker = own.docker
  podman = containersTool('podman', work)
  buildah = containersTool('buildah', work)
  image('import', baseTar, 'base:1')
  // Every path twice, which docker and podman take in no layer.
  sh('cd "$1"; cp busybox.tar appended.tar; tar -C busybox-root -rf appended.tar .', work)
  image('import', join(work, 'appended.tar'), 'appended:1')
  rich = idIn(image('build', '-q', '-t', 'rich:1', '-t', 'localhost:5000/judged/rich:v1', context))
  image('build', '-q', '--layers=stage', '-t', 'stage:1', context)
  docker('import', baseTar, 'base:1')
  docker('build', '-q', '--network=none', '-t', 'loaded:1', '-t', 'loaded:2', context)
  docker('save', '-o', join(work, 'docker-one.tar'), 'loaded:1')
  docker('save', '-o', join(work, 'docker-two.tar'), 'loaded:1', 'loaded:2', 'base:1')
  image('load', '-i', join(work, 'docker-one.tar'))
})

afterAll(async () => {
  await daemon?.stop()
  await own?.[Symbol.asyncDispose]()
  unmountBelow(work)
  rmSync(work, { recursive: true, force: true })
})

/** IDs of what umoci has unpacked already. */
const unpacked = new Set<string>()
const several = ['rich:1', 'localhost:5000/judged/rich:v1', 'stage:1', 'base:1', 'loaded:1', 'appended:1']
const kinds = [
  { kind: 'one image', format: 'docker', images: ['rich:1'] },
  { kind: 'one image', format: 'oci', images: ['rich:1'] },
  { kind: 'several images and tags', format: 'docker', images: several },
  { kind: 'several images and tags', format: 'oci', images: several },
  { kind: 'an image by ID', format: 'docker', images: [] },
  { kind: 'an image by ID', format: 'oci', images: [] },
] as const

describe.each(kinds)('our $format archive of $kind', ({ kind, format, images }) => {
  let path: string
  let held: ReturnType<typeof contentOfArchive>

  beforeAll(() => {
    path = join(work, `${format}-${kind.replaceAll(' ', '-')}.tar`)
    image('save', '-f', format, '-o', path, ...(images.length === 0 ? [rich] : images))
    held = contentOfArchive(path)
    expect([...held.keys()]).toEqual(images.length === 0 ? [''] : images)
  })

  afterAll(() => rmSync(path, { force: true }))

  test('is copied whole by skopeo', () => {
    for (const [name, { id, diffIds }] of held) {
      const source = `${format}-archive:${path}${name === '' ? '' : `:${name}`}`
      const copy = join(work, 'skopeo-copy')
      skopeo('copy', '-q', source, `dir:${copy}`)
      const manifest = JSON.parse(readFileSync(join(copy, 'manifest.json'), 'utf8')) as {
        config: { digest: string }
        layers: { digest: string }[]
      }
      expect(manifest.config.digest).toBe(`sha256:${id}`)
      expect(manifest.layers.map(({ digest }) => digest)).toEqual(diffIds)
      rmSync(copy, { recursive: true })
    }
  })

  test('is loaded by podman', () => {
    podman('load', '-q', '-i', path)
    for (const [name, { id, diffIds }] of held) {
      const [found] = JSON.parse(podman('image', 'inspect', id))
      expect(found.RootFS.Layers).toEqual(diffIds)
      if (name !== '') expect(found.RepoTags.map(shortName)).toContain(shortName(name))
    }
    podman('rmi', '-af')
  })

  test('is loaded by docker', () => {
    // So that it unpacks every layer itself.
    if (kind === 'one image') docker('image', 'prune', '-af')
    docker('load', '-i', path)
    for (const [name, { id, diffIds }] of held) {
      const [found] = JSON.parse(docker('image', 'inspect', name === '' ? id : name))
      expect(found.Id).toBe(`sha256:${id}`)
      expect(found.RootFS.Layers).toEqual(diffIds)
    }
  })

  if (format === 'oci') {
    test('is a layout for umoci', () => {
      const layout = join(work, 'layout')
      mkdirSync(layout)
      runTool('tar', ['-C', layout, '-xf', path])
      const names = umoci('list', '--layout', layout)
        .trim()
        .split('\n')
        .filter((name) => name !== '')
      expect(names.sort()).toEqual([...images].sort())
      for (const [i, name] of names.entries()) {
        const { id = '' } = held.get(name) ?? {}
        if (unpacked.has(id)) continue
        unpacked.add(id)
        umoci('tag', '--image', `${layout}:${name}`, `plain${i}`)
        umoci('unpack', '--image', `${layout}:plain${i}`, join(work, `bundle${i}`))
        expect(existsSync(join(work, `bundle${i}`, 'rootfs/bin/busybox'))).toBe(true)
        rmSync(join(work, `bundle${i}`), { recursive: true })
      }
      rmSync(layout, { recursive: true })
    })
  }
})

test('docker runs an image as the README makes it', () => {
  const context = join(work, 'demo')
  mkdirSync(context)
  writeFileSync(join(context, 'greeting.txt'), 'Hello from an image built by isula-build\n')
  writeFileSync(
    join(context, 'Dockerfile'),
    `FROM base:1 AS build
WORKDIR /src
COPY greeting.txt .
RUN tr a-z A-Z < greeting.txt > shout.txt && ls -l

FROM base:1
COPY --from=build /src/shout.txt /greeting
ENV GREETING=/greeting
CMD ["/bin/cat", "/greeting"]
`,
  )
  for (const [kind, network] of Object.entries({ 'docker-archive': 'host', 'oci-archive': 'none' })) {
    const path = join(work, `hello-${kind}.tar`)
    image('build', '-q', '-t', 'hello:1.0', '-o', `${kind}:${path}:hello:1.0`, context)
    docker('load', '-i', path)
    const said = docker('run', '--rm', `--network=${network}`, 'hello:1.0')
    expect(said).toBe('HELLO FROM AN IMAGE BUILT BY ISULA-BUILD\n')
    docker('rmi', '-f', 'hello:1.0')
  }
})

test('every tool unpacks the same tree, with all that is odd in it', () => {
  const archive = (format: string): string => {
    const path = join(work, `tree-${format}.tar`)
    image('save', '-f', format, '-o', path, 'rich:1')
    return path
  }
  const layout = join(work, 'tree-layout')
  mkdirSync(layout)
  runTool('tar', ['-C', layout, '-xf', archive('oci')])
  umoci('tag', '--image', `${layout}:rich:1`, 'plain')
  umoci('unpack', '--image', `${layout}:plain`, join(work, 'bundle'))
  const root = join(work, 'bundle/rootfs')
  const tree = treeListing(root, places)

  expect(oddTreeFaults(root)).toEqual([])

  const path = archive('docker')
  podman('load', '-q', '-i', path)
  expect(treeListing(podman('image', 'mount', rich).trim(), places)).toEqual(tree)
  podman('image', 'unmount', rich)
  podman('rmi', '-af')
  docker('load', '-i', path)
  const container = docker('run', '-d', '--network=none', 'rich:1', '/bin/sleep', '600').trim()
  const pid = docker('inspect', '-f', '{{.State.Pid}}', container).trim()
  expect(treeListing(`/proc/${pid}/root`, places)).toEqual(tree)
  docker('rm', '-f', container)
})

describe('images of other tools', () => {
  /** Loads an archive, saves every image again and compares with what its maker calls it. */
  function expectSame(path: string, transport: string, names: readonly string[]): void {
    const ids = [...image('load', '-i', path).matchAll(/^Loaded image as ([0-9a-f]{64})$/gm)].map(
      ([, id]) => id,
    )
    for (const name of names) {
      const raw = skopeo(
        'inspect',
        '--raw',
        '--config',
        `${transport}:${path}${name === '' ? '' : `:${name}`}`,
      )
      const content = contentOfConfig(raw)
      const { id } = content
      expect(ids).toContain(id)
      for (const format of ['docker', 'oci']) {
        const again = join(work, 'again.tar')
        image('save', '-f', format, '-o', again, id)
        expect([...contentOfArchive(again)]).toEqual([['', content]])
        rmSync(again)
      }
    }
  }

  beforeAll(() => {
    image('rm', '-a')
    podman('import', join(work, 'busybox.tar'), 'localhost/base:1')
    const context = join(work, 'context')
    const layers = ['--layers', '--isolation', 'chroot', '--cap-add', 'mknod', '--pull-never']
    buildah('bud', ...layers, '-q', '-t', 'localhost/made:1', '-f', join(work, 'Buildahfile'), context)
  })

  test('are the same after docker save, of one and of several with tags', () => {
    expectSame(join(work, 'docker-one.tar'), 'docker-archive', ['loaded:1'])
    expectSame(join(work, 'docker-two.tar'), 'docker-archive', ['loaded:1', 'loaded:2', 'base:1'])
    expect(image('images', 'loaded:2')).toContain('loaded')
  })

  test.each(['docker-archive', 'oci-archive'])('are the same after podman save, %s', (format) => {
    const path = join(work, `podman-${format}.tar`)
    podman('save', '-q', '--format', format, '-o', path, 'localhost/made:1')
    expectSame(path, format, [''])
  })

  test('are the same after podman save of several', () => {
    const path = join(work, 'podman-several.tar')
    podman('save', '-q', '-m', '-o', path, 'localhost/made:1', 'localhost/base:1')
    expectSame(path, 'docker-archive', ['localhost/made:1', 'localhost/base:1'])
  })

  test.each(['docker-archive', 'oci-archive'])('are the same after buildah push, %s', (transport) => {
    const path = join(work, `buildah-${transport}.tar`)
    buildah('push', '-q', 'localhost/made:1', `${transport}:${path}:localhost/pushed:1`)
    expectSame(path, transport, [''])
    expect(image('images', 'localhost/pushed:1')).toContain('pushed')
  })

  test.each([
    ['docker-archive', []],
    ['oci-archive', ['--dest-compress-format', 'gzip']],
    ['oci-archive', ['--dest-compress-format', 'zstd']],
  ])('are the same after skopeo copy, %s %j', (transport, options) => {
    const path = join(work, `skopeo-${transport}-${options.at(-1) ?? ''}.tar`)
    const source = `docker-archive:${join(work, 'docker-one.tar')}`
    skopeo('copy', '-q', ...options, source, `${transport}:${path}:localhost/copied:1`)
    expectSame(path, transport, [''])
  })
})

/** Names differ in how they say that they have no registry. */
function shortName(name: string): string {
  return name.replace(/^(docker\.io\/library|localhost)\//, '')
}
