import { randomBytes } from 'node:crypto'
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { rawTar } from '../../packages/builder-daemon/src/layer/test-layers.js'
import { digestOf } from '../../packages/shared/src/oci/digest.js'
import { type ClientBench, createClientBench } from '../support/client-bench.js'
import { type ContainerTools, createContainerTools } from '../support/container-tools.js'
import {
  contentAtRegistry,
  contentOfArchive,
  contentOfConfig,
  type ImageContent,
} from '../support/image-contents.js'
import { type OwnDocker, startDocker, umoci } from '../support/judges.js'
import { faultOfDocker, makeOddImage, oddGreeting, oddTreeFaults } from '../support/odd-image.js'
import { type RealRegistry, startRealRegistry } from '../support/real-registry.js'
import { inspectStore } from '../support/store-inspection.js'
import { treeListing } from '../support/tree-listing.js'

// What we push to Debian's docker-registry, and who can read it: every image by every reader.

let bench: ClientBench
/** A daemon that has none of the images. */
let other: ClientBench
let registry: RealRegistry
let tools: ContainerTools
let own: OwnDocker
let work: string

const gzip = /\.gzip$|\+gzip$/
const zstd = /\+zstd$/

/** What is pushed, as which media types the layers are, and what it prints; undefined: it cannot run. */
const images = {
  'odd-docker': { layers: gzip, manifest: 'docker', says: oddGreeting },
  'odd-oci': { layers: gzip, manifest: 'oci', says: oddGreeting },
  'odd-zstd': { layers: zstd, manifest: 'oci', says: oddGreeting },
  'config-only': { layers: gzip, manifest: 'docker', says: undefined },
  'made-by-docker': { layers: gzip, manifest: 'oci', says: oddGreeting },
  'empty-layers': { layers: gzip, manifest: 'docker', says: 'empty\n' },
  'big-layer': { layers: gzip, manifest: 'docker', says: 'big\n' },
  'many-layers': { layers: gzip, manifest: 'oci', says: 'many\n' },
} as const
type Name = keyof typeof images
const names = Object.keys(images) as readonly Name[]
const content = new Map<Name, ImageContent>()

let places = 0
/** A path that nobody has used before, also when a test has failed. */
const fresh = (): string => join(work, `place-${++places}`)
const reference = (name: Name): string => `${registry.host}/ours/${name}:1`
const contentOf = (name: Name): ImageContent => {
  const found = content.get(name)
  if (found === undefined) throw new Error(`${name} was not pushed`)
  return found
}

/** As an OCI layout, with layers of gzip: umoci 0.4 takes no others. */
function layoutOf(name: Name): string {
  const layout = fresh()
  const recompressed = images[name].layers === zstd ? ['--dest-compress-format=gzip'] : []
  const source = `docker://${reference(name)}`
  tools.skopeo('copy', '-q', '--src-tls-verify=false', ...recompressed, source, `oci:${layout}:copied`)
  return layout
}

/** Pushes a local image, and notes what it consists of. */
function push(name: Name, image: string, ...flags: readonly string[]): void {
  const archive = fresh()
  bench.ok(['save', '-f', 'docker', '-o', archive, image])
  const [held] = contentOfArchive(archive).values()
  if (held === undefined) throw new Error(`${image} was saved as nothing`)
  content.set(name, held)
  rmSync(archive)
  bench.ok(['push', ...flags, image, reference(name)])
}

function build(tag: string, dockerfile: string, files: Readonly<Record<string, string>> = {}): string {
  bench.ok(['build', '-q', '-t', tag, bench.context({ Dockerfile: dockerfile, ...files })])
  return tag
}

/** With a layer of no bytes at all, and one of an archive without entries. */
function loadEmptyLayers(): string {
  const archive = join(work, 'empty.tar')
  bench.ok(['save', '-f', 'docker', '-o', archive, 'base:1'])
  const base = join(work, 'empty')
  mkdirSync(base)
  tools.skopeo('copy', '-q', `docker-archive:${archive}`, `dir:${base}`)
  const [layer = ''] = contentOfArchive(archive).get('base:1')?.diffIds ?? []
  const tars = [
    readFileSync(join(base, layer.slice('sha256:'.length))),
    Buffer.alloc(0),
    Buffer.alloc(1024),
    Buffer.alloc(0),
  ]
  const config = JSON.stringify({
    ...{ architecture: process.arch === 'x64' ? 'amd64' : process.arch, os: 'linux' },
    created: '2024-01-01T00:00:00Z',
    config: { Cmd: ['/bin/echo', 'empty'] },
    rootfs: { type: 'layers', diff_ids: tars.map(digestOf) },
    history: tars.map(() => ({ created: '2024-01-01T00:00:00Z' })),
  })
  const Layers = tars.map((_, index) => `${index}.tar`)
  const manifest = JSON.stringify([{ Config: 'config.json', RepoTags: ['empty:1'], Layers }])
  const files = { 'config.json': config, 'manifest.json': manifest }
  const members = [
    ...tars.map((bytes, index) => ({ name: `${index}.tar`, content: bytes })),
    ...Object.entries(files).map(([name, text]) => ({ name, content: Buffer.from(text) })),
  ]
  writeFileSync(archive, rawTar(...members))
  bench.ok(['load', '-i', archive])
  rmSync(archive)
  rmSync(base, { recursive: true })
  return 'empty:1'
}

beforeAll(async () => {
  registry = await startRealRegistry()
  bench = await createClientBench()
  other = await createClientBench()
  own = await startDocker()
  work = join(bench.work, 'interop')
  mkdirSync(work)
  tools = createContainerTools(join(work, 'tools'))
  const { baseTar, context } = makeOddImage(work, 'odd:1')
  bench.ok(['import', baseTar, 'odd:1'])
  bench.ok(['build', '-q', '-t', 'rich:1', context])
  push('odd-docker', 'rich:1')
  push('odd-oci', 'rich:1', '--format=oci')
  push('odd-zstd', 'rich:1', '--format=oci', '--compression=zstd')
  push('config-only', build('config:1', 'FROM scratch\nLABEL only=config\nENV A=b\nCMD ["/nothing"]\n'))
  own.docker('import', baseTar, 'odd:1')
  own.docker('build', '-q', '--network=none', '-t', 'docker-made:1', context)
  own.docker('save', '-o', join(work, 'docker.tar'), 'docker-made:1')
  own.docker('rmi', 'docker-made:1', 'odd:1')
  bench.ok(['load', '-i', join(work, 'docker.tar')])
  push('made-by-docker', 'docker-made:1', '--format=oci')
  push('empty-layers', loadEmptyLayers())
  // Compressible in parts, and more than one thread compresses.
  const big = Buffer.concat([randomBytes(12 << 20), Buffer.alloc(20 << 20, 'big '), randomBytes(4 << 20)])
  const bigContext = bench.context({ Dockerfile: 'FROM base:1\nCOPY big /\nCMD ["/bin/echo","big"]\n' })
  writeFileSync(join(bigContext, 'big'), big)
  bench.ok(['build', '-q', '-t', 'big:1', bigContext])
  push('big-layer', 'big:1')
  // The same layer again and again between others.
  const copies = Array.from({ length: 6 }, (_, index) => `COPY same /\nCOPY same /copy${index}\n`).join('')
  const many = `FROM base:1\n${copies}CMD ["/bin/echo","many"]\n`
  push('many-layers', build('many:1', many, { same: 'same\n' }), '--format=oci', '--compression=gzip:9')
})

afterAll(async () => {
  await own?.[Symbol.asyncDispose]()
  tools?.[Symbol.dispose]()
  await other?.[Symbol.asyncDispose]()
  await bench?.[Symbol.asyncDispose]()
  await registry?.[Symbol.asyncDispose]()
})

describe.each(names)('%s', (name) => {
  const { layers, manifest, says } = images[name]

  test('is copied by skopeo as it was pushed', () => {
    const { mediaTypes, ...found } = contentAtRegistry(tools.skopeo, reference(name), fresh())
    expect(found).toEqual(contentOf(name))
    expect(mediaTypes[0]).toContain(manifest)
    expect(mediaTypes[1]).toContain(manifest)
    for (const type of mediaTypes.slice(2)) expect(type).toMatch(layers)
    expect(mediaTypes).toHaveLength(contentOf(name).diffIds.length + 2)
  })

  test('is made a docker archive by skopeo', () => {
    const archive = fresh()
    const target = `docker-archive:${archive}:copied:1`
    const copy = (source: string) => tools.skopeo('copy', '-q', '--src-tls-verify=false', source, target)
    if (layers === zstd) {
      expect(() => copy(`docker://${reference(name)}`)).toThrow('zstd compression is not supported')
      rmSync(archive, { force: true })
      copy(`oci:${layoutOf(name)}:copied`)
    } else copy(`docker://${reference(name)}`)
    expect([...contentOfArchive(archive).values()]).toEqual([contentOf(name)])
  })

  test('is unpacked by umoci', () => {
    const layout = layoutOf(name)
    const bundle = fresh()
    const [entry] = JSON.parse(readFileSync(join(layout, 'index.json'), 'utf8')).manifests
    const blob = (digest: string): string =>
      readFileSync(join(layout, 'blobs/sha256', digest.slice('sha256:'.length)), 'utf8')
    const config = blob(JSON.parse(blob(entry.digest)).config.digest)
    // skopeo writes another config for another format.
    const { id, diffIds } = contentOf(name)
    expect(contentOfConfig(config)).toEqual({ id: manifest === 'oci' ? id : expect.anything(), diffIds })
    umoci('unpack', '--image', `${layout}:copied`, bundle)
    if (says === oddGreeting) {
      const faults = name === 'made-by-docker' ? [faultOfDocker] : []
      expect(oddTreeFaults(join(bundle, 'rootfs'))).toEqual(faults)
    } else expect(readdirSync(join(bundle, 'rootfs')).includes('bin')).toBe(says !== undefined)
    rmSync(layout, { recursive: true })
    rmSync(bundle, { recursive: true })
  })

  test('is pulled and run by docker', () => {
    const { docker } = own
    if (layers === zstd) {
      // Version 20.10 cannot unpack zstd, whoever made it.
      expect(() => docker('pull', '-q', reference(name))).toThrow(/tar|zstd|unsupported/i)
      return
    }
    docker('pull', '-q', reference(name))
    const [found] = JSON.parse(docker('image', 'inspect', reference(name)))
    const { id, diffIds } = contentOf(name)
    expect([found.Id, found.RootFS.Layers ?? []]).toEqual([`sha256:${id}`, diffIds])
    if (says !== undefined) {
      expect(docker('run', '--rm', '--network=none', reference(name))).toBe(says)
    }
    docker('rmi', '-f', reference(name))
  })

  test('is pulled and run by podman', () => {
    const { podman } = tools
    const { id, diffIds } = contentOf(name)
    expect(podman('pull', '-q', '--tls-verify=false', reference(name)).trim()).toBe(id)
    const [found] = JSON.parse(podman('image', 'inspect', id))
    expect(found.RootFS.Layers ?? []).toEqual(diffIds)
    if (says !== undefined) expect(podman('run', '--rm', id)).toBe(says)
    podman('rmi', '-f', id)
  })

  test('is a base for buildah', () => {
    const { buildah } = tools
    const source = ['-q', '--tls-verify=false', reference(name)]
    const container = buildah('from', ...source).trim()
    const found = JSON.parse(buildah('inspect', container))
    expect(found.FromImageID).toBe(contentOf(name).id)
    expect(JSON.parse(found.Config).rootfs.diff_ids ?? []).toEqual(contentOf(name).diffIds)
    if (says !== undefined) {
      const { Cmd } = JSON.parse(found.Config).config
      expect(buildah('run', '--isolation=chroot', container, '--', ...Cmd)).toBe(says)
    }
    buildah('rm', container)
    buildah('rmi', '-f', contentOf(name).id)
  })

  test('is pulled by another daemon of ours', () => {
    const archive = fresh()
    const before = registry.requests().length
    expect(other.ok(['pull', '-q', reference(name)])).toBe(`${contentOf(name).id}\n`)
    const requests = registry.requests().slice(before)
    const fetched = requests.filter((request) => /^GET \S+\/blobs\//.test(request))
    // No blob twice, also when it is more than one layer.
    expect(new Set(fetched).size).toBe(fetched.length)
    other.ok(['save', '-f', 'docker', '-o', archive, reference(name)])
    expect([...contentOfArchive(archive).values()]).toEqual([contentOf(name)])
    other.ok(['rm', reference(name)])
  })

  test('is a base for our builds', async () => {
    other.ok(['rm', '-p'])
    await other.prune()
    const context = other.context({ Dockerfile: `FROM ${reference(name)}\nENV MORE=1\n` })
    const output = other.ok(['build', '-t', 'derived:1', context])
    const copied = new Set(output.match(/^Copying blob sha256:[0-9a-f]{64}$/gm))
    expect(copied.size).toBe(new Set(contentOf(name).diffIds).size)
    const archive = fresh()
    other.ok(['save', '-f', 'docker', '-o', archive, 'derived:1'])
    const [derived] = contentOfArchive(archive).values()
    expect(derived?.diffIds).toEqual(contentOf(name).diffIds)
    if (says !== undefined) {
      const command = says === oddGreeting ? 'cat /greeting' : `echo ${says.trim()}`
      const dockerfile = `FROM derived:1\nRUN ${command}\n`
      expect(other.ok(['build', '--no-cache', other.context({ Dockerfile: dockerfile })])).toContain(
        `\n${says}`,
      )
    }
    other.ok(['rm', 'derived:1', reference(name)])
  })
})

test('everybody unpacks the same tree, however it is packed', () => {
  const trees = (['odd-docker', 'odd-oci', 'odd-zstd'] as const).map((name) => {
    const layout = layoutOf(name)
    const bundle = fresh()
    umoci('unpack', '--image', `${layout}:copied`, bundle)
    return treeListing(join(bundle, 'rootfs'))
  })
  expect(trees[0]?.length).toBeGreaterThan(100)
  expect(trees[1]).toEqual(trees[0])
  expect(trees[2]).toEqual(trees[0])
})

test('both stores are sound after all of this', async () => {
  expect(await inspectStore(bench.daemon.data)).toEqual([])
  expect(await inspectStore(other.daemon.data)).toEqual([])
})
