import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type ClientBench, createClientBench } from '../support/client-bench.js'
import { type ContainerTools, createContainerTools } from '../support/container-tools.js'
import {
  contentAtRegistry,
  contentOfArchive,
  contentOfConfig,
  type ImageContent,
} from '../support/image-contents.js'
import { type OwnDocker, startDocker } from '../support/judges.js'
import { makeOddImage, oddDockerfile, oddGreeting } from '../support/odd-image.js'
import { type RealRegistry, startRealRegistry } from '../support/real-registry.js'
import { inspectStore } from '../support/store-inspection.js'

// What other tools push to Debian's docker-registry: we pull it, use it, and push it on as it is.

let bench: ClientBench
let registry: RealRegistry
let elsewhere: RealRegistry
let tools: ContainerTools
let own: OwnDocker
let work: string
/** Archives of what docker built. */
let dockerArchive: string
let ociArchive: string

let places = 0
/** A path that nobody has used before, also when a test has failed. */
const fresh = (): string => join(work, `place-${++places}`)

beforeAll(async () => {
  registry = await startRealRegistry()
  elsewhere = await startRealRegistry()
  bench = await createClientBench()
  own = await startDocker()
  work = join(bench.work, 'interop')
  mkdirSync(work)
  tools = createContainerTools(join(work, 'tools'))
  const { baseTar, context } = makeOddImage(work, 'odd:1')
  own.docker('import', baseTar, 'odd:1')
  own.docker('build', '-q', '--network=none', '-t', 'docker-made:1', context)
  dockerArchive = fresh()
  own.docker('save', '-o', dockerArchive, 'docker-made:1')
  ociArchive = fresh()
  tools.skopeo('copy', '-q', `docker-archive:${dockerArchive}`, `oci-archive:${ociArchive}:made`)
  tools.podman('import', '-q', baseTar, 'localhost/odd:1')
  const file = join(work, 'Buildahfile')
  writeFileSync(file, oddDockerfile('localhost/odd:1'))
  const layers = ['--layers', '--isolation=chroot', '--cap-add=mknod', '--pull-never']
  tools.buildah('bud', ...layers, '-q', '-t', 'localhost/made:1', '-f', file, context)
})

afterAll(async () => {
  await own?.[Symbol.asyncDispose]()
  tools?.[Symbol.dispose]()
  await bench?.[Symbol.asyncDispose]()
  await elsewhere?.[Symbol.asyncDispose]()
  await registry?.[Symbol.asyncDispose]()
})

interface Writer {
  readonly by: string
  /** Of the manifest and of every layer that is pushed. */
  readonly manifest: RegExp
  readonly layers: RegExp
  readonly push: (reference: string) => unknown
}

const gzip = /gzip$/
const zstd = /zstd$/
const insecure = '--dest-tls-verify=false'
const skopeo = (reference: string, source: string, ...flags: readonly string[]) =>
  tools.skopeo('copy', '-q', insecure, ...flags, source, `docker://${reference}`)
const ofDocker = (): string => `docker-archive:${dockerArchive}`
const podman = (reference: string, ...flags: readonly string[]) =>
  tools.podman('push', '-q', '--tls-verify=false', ...flags, 'localhost/made:1', reference)
const buildah = (reference: string, ...flags: readonly string[]) =>
  tools.buildah('push', '-q', '--tls-verify=false', ...flags, 'localhost/made:1', `docker://${reference}`)

const writers: readonly Writer[] = [
  // First, as what is known in both forms is pushed as gzip, which everybody reads.
  {
    ...{ by: 'skopeo, OCI with zstd', manifest: /oci/, layers: zstd },
    push: (to) => skopeo(to, ofDocker(), '--format=oci', '--dest-compress-format=zstd'),
  },
  {
    ...{ by: 'podman, OCI with zstd', manifest: /oci/, layers: zstd },
    push: (to) => podman(to, '--format=oci', '--compression-format=zstd'),
  },
  {
    ...{ by: 'skopeo, docker format', manifest: /docker/, layers: gzip },
    push: (to) => skopeo(to, ofDocker(), '--format=v2s2'),
  },
  {
    ...{ by: 'skopeo, OCI', manifest: /oci/, layers: gzip },
    push: (to) => skopeo(to, ofDocker(), '--format=oci'),
  },
  {
    ...{ by: 'skopeo, from an OCI archive', manifest: /oci/, layers: gzip },
    push: (to) => skopeo(to, `oci-archive:${ociArchive}:made`),
  },
  {
    ...{ by: 'docker', manifest: /docker/, layers: gzip },
    push(to) {
      own.docker('tag', 'docker-made:1', to)
      own.docker('push', '-q', to)
    },
  },
  {
    ...{ by: 'podman, docker format', manifest: /docker/, layers: gzip },
    push: (to) => podman(to, '--format=v2s2'),
  },
  {
    ...{ by: 'podman, OCI', manifest: /oci/, layers: gzip },
    push: (to) => podman(to, '--format=oci'),
  },
  { ...{ by: 'buildah', manifest: /oci/, layers: gzip }, push: (to) => buildah(to) },
  {
    ...{ by: 'buildah, docker format', manifest: /docker/, layers: gzip },
    push: (to) => buildah(to, '--format=v2s2'),
  },
]

describe.each(writers)('what is pushed by $by', ({ by, manifest, layers, push }) => {
  const repository = `theirs/${by.toLowerCase().replaceAll(/[ ,]+/g, '-')}`
  let reference: string
  let content: ImageContent

  beforeAll(() => {
    reference = `${registry.host}/${repository}:1`
    tools.forgetBlobs()
    push(reference)
    const { mediaTypes, ...found } = contentAtRegistry(tools.skopeo, reference, fresh())
    expect(mediaTypes[0]).toMatch(manifest)
    for (const type of mediaTypes.slice(2)) expect(type).toMatch(layers)
    content = found
  })

  // The next one is fetched, not found.
  afterAll(async () => {
    bench.ok(['rm', reference])
    bench.ok(['rm', '-p'])
    await bench.prune()
  })

  test('we pull', () => {
    const output = bench.ok(['pull', reference])
    const copied = new Set(output.match(/^Copying blob sha256:[0-9a-f]{64}$/gm))
    expect(copied.size).toBe(new Set(content.diffIds).size)
    expect(bench.ok(['pull', '-q', '--policy=never', reference])).toBe(`${content.id}\n`)
  })

  test('we save', () => {
    const archive = fresh()
    bench.ok(['save', '-f', 'docker', '-o', archive, reference])
    expect([...contentOfArchive(archive)]).toEqual([[reference, content]])
    rmSync(archive)
    bench.ok(['save', '-f', 'oci', '-o', archive, reference])
    const config = tools.skopeo('inspect', '--raw', '--config', `oci-archive:${archive}:${reference}`)
    expect(contentOfConfig(config)).toEqual(content)
    rmSync(archive)
  })

  test('we run', () => {
    const dockerfile = `FROM ${reference}\nRUN /bin/cat /greeting && ls /lower && ls /opaque && stat -c %a /lower/able\n`
    const output = bench.ok(['build', '--no-cache', bench.context({ Dockerfile: dockerfile })])
    expect(output).toContain(`\n${oddGreeting}able\nkept\nlink\none\ntwo\nnew\n4755\n`)
  })

  test('we push to another repository of the same registry without sending a layer', () => {
    const again = `${registry.host}/ours/${repository}:2`
    const before = registry.requests().length
    const output = bench.ok(['push', reference, again])
    const mounted = output.match(/^Copying blob sha256:[0-9a-f]{64} skipped: mounted from .+$/gm) ?? []
    const different = new Set(content.diffIds).size
    expect(mounted).toHaveLength(different)
    const requests = registry.requests().slice(before)
    const ofKind = (pattern: RegExp) => requests.filter((request) => pattern.test(request))
    expect(ofKind(/^POST \S+\?(.*&)?mount=\S+ 201 /)).toHaveLength(different)
    // The config is all that is sent.
    expect(ofKind(/^PATCH /).length + ofKind(/^PUT \S+\/uploads\//).length).toBeLessThanOrEqual(1)
    expect(ofKind(/^GET \S+\/blobs\//)).toEqual([])
    const { mediaTypes, ...found } = contentAtRegistry(tools.skopeo, again, fresh())
    expect(found).toEqual(content)
    for (const type of mediaTypes.slice(2)) expect(type).toMatch(layers)
  })

  test('we push to another registry, where skopeo finds the same', () => {
    const copy = `${elsewhere.host}/${repository}:3`
    bench.ok(['push', reference, copy])
    const { mediaTypes, ...found } = contentAtRegistry(tools.skopeo, copy, fresh())
    expect(found).toEqual(content)
    for (const type of mediaTypes.slice(2)) expect(type).toMatch(/gzip$|zstd$/)
  })
})

test('the store is sound after all of this', async () => {
  expect(await inspectStore(bench.daemon.data)).toEqual([])
})
