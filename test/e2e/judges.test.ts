import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startDaemon, type TestDaemon } from '../../scripts/lib/daemon.mjs'
import { makeBusyboxTar } from '../support/busybox-rootfs.js'
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
const sha256 = (bytes: string | Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

/** Of every kind of entry a layer has, something; \351 is no UTF-8. */
const oddities = `
  mkdir -p "$1/lower" "$1/opaque/old" "$1/dropped/deep" "$1/names" "$1/sticky" "$1/$2"
  echo kept > "$1/lower/kept"; echo gone > "$1/lower/gone"; echo old > "$1/opaque/old/file"; echo d > "$1/dropped/deep/f"
  echo latin > "$1/names/$(printf 'latin\\351')"; echo long > "$1/$2/file"; ln -s "../names" "$1/lower/link"
  echo one > "$1/lower/one"; ln "$1/lower/one" "$1/lower/two"; chmod 1777 "$1/sticky"
  cp "$1/lower/one" "$1/lower/able"; chmod 4755 "$1/lower/able"; setcap cap_net_raw+ep "$1/lower/able"
  setfattr -n user.note -v some "$1/lower/kept"; touch -d '2001-02-03 04:05:06.789' "$1/lower/kept" "$1/names"`
const longPath = `long/${'directory-with-a-long-name/'.repeat(6)}${'n'.repeat(120)}`

const dockerfile = `FROM base:1
LABEL judged=yes
RUN rm /lower/gone && rm -r /opaque /dropped && mkdir /opaque && echo new > /opaque/new && echo hi > /greeting
RUN ln /bin/busybox /bin/linked && chown 70000:80000 /lower/kept && touch /lower/able
RUN echo again > "/names/$(printf 'up\\351')" && mkfifo /fifo && mknod /null c 1 3 && chmod 600 /sticky
COPY --chown=12:34 tree /copied/
CMD ["/bin/cat", "/greeting"]
`

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
  const context = join(work, 'context')
  mkdirSync(join(context, 'tree'), { recursive: true })
  sh(oddities, join(context, 'tree'), longPath)
  writeFileSync(join(context, 'Dockerfile'), dockerfile)
  writeFileSync(join(work, 'Buildahfile'), dockerfile.replace('base:1', 'localhost/base:1'))
  makeBusyboxTar(work, (root) => sh(oddities, root, longPath))
  daemon = await startDaemon()
  own = await startDocker()
  docker = own.docker
  podman = containersTool('podman', work)
  buildah = containersTool('buildah', work)
  image('import', join(work, 'busybox.tar'), 'base:1')
  // Every path twice, which docker and podman take in no layer.
  sh('cd "$1"; cp busybox.tar appended.tar; tar -C busybox-root -rf appended.tar .', work)
  image('import', join(work, 'appended.tar'), 'appended:1')
  rich = idIn(image('build', '-q', '-t', 'rich:1', '-t', 'localhost:5000/judged/rich:v1', context))
  image('build', '-q', '--layers=stage', '-t', 'stage:1', context)
  docker('import', join(work, 'busybox.tar'), 'base:1')
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

interface Config {
  readonly rootfs: { readonly diff_ids: readonly string[] }
}

/** What the archive says it holds: image ID and diff IDs by name, '' for none. Every layer is hashed. */
function heldBy(
  path: string,
): ReadonlyMap<string, { readonly id: string; readonly diffIds: readonly string[] }> {
  const read = (name: string): Buffer =>
    Buffer.from(sh('tar -xOf "$1" "$2" | base64 -w0', path, name), 'base64')
  const manifest = JSON.parse(read('manifest.json').toString()) as readonly {
    readonly Config: string
    readonly RepoTags: readonly string[] | null
    readonly Layers: readonly string[]
  }[]
  const held = new Map<string, { id: string; diffIds: readonly string[] }>()
  for (const { Config, RepoTags, Layers } of manifest) {
    const bytes = read(Config)
    const diffIds = (JSON.parse(bytes.toString()) as Config).rootfs.diff_ids
    const hashed = Layers.map(
      (layer) => `sha256:${sh('tar -xOf "$1" "$2" | sha256sum', path, layer).slice(0, 64)}`,
    )
    expect(hashed).toEqual(diffIds)
    for (const name of RepoTags?.length ? RepoTags : ['']) held.set(name, { id: sha256(bytes), diffIds })
  }
  return held
}

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
  let held: ReturnType<typeof heldBy>

  beforeAll(() => {
    path = join(work, `${format}-${kind.replaceAll(' ', '-')}.tar`)
    image('save', '-f', format, '-o', path, ...(images.length === 0 ? [rich] : images))
    held = heldBy(path)
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

  const found = (script: string): string => sh(`cd "$1"; ${script}`, root).trim()
  expect(found('ls lower')).toBe('able\nkept\nlink\none\ntwo')
  expect(found('ls -A opaque')).toBe('new')
  expect(found('ls -A | grep -c dropped || true')).toBe('0')
  expect(found('stat -c "%h %i" lower/one')).toBe(found('stat -c "%h %i" lower/two'))
  expect(found('stat -c "%h" lower/one bin/linked copied/lower/two')).toBe('2\n2\n2')
  expect(found('stat -c "%a %u:%g" lower/able copied/lower/kept sticky')).toBe('4755 0:0\n644 12:34\n600 0:0')
  expect(found('stat -c "%u:%g %Y" lower/kept')).toBe('70000:80000 981173106')
  expect(found('getcap lower/able')).toBe('lower/able cap_net_raw=ep')
  expect(found('getfattr --only-values -n user.note lower/kept')).toBe('some')
  expect(found("cat names/$(printf 'latin\\351') names/$(printf 'up\\351')")).toBe('latin\nagain')
  expect(found('stat -c "%F %t:%T" fifo null')).toBe('fifo 0:0\ncharacter special file 1:3')
  expect(found(`cat "${longPath}/file" "copied/${longPath}/file"`)).toBe('long\nlong')

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
      const id = sha256(raw)
      expect(ids).toContain(id)
      for (const format of ['docker', 'oci']) {
        const again = join(work, 'again.tar')
        image('save', '-f', format, '-o', again, id)
        expect([...heldBy(again)]).toEqual([
          ['', { id, diffIds: (JSON.parse(raw) as Config).rootfs.diff_ids }],
        ])
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
