import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Digest, digestOf } from '../../packages/shared/src/oci/digest.js'
import { mediaTypes } from '../../packages/shared/src/oci/media-types.js'
import { type ClientBench, createClientBench } from '../support/client-bench.js'
import { type RealRegistry, startRealRegistry } from '../support/real-registry.js'
import { inspectStore } from '../support/store-inspection.js'

let bench: ClientBench
let registry: RealRegistry

beforeAll(async () => {
  registry = await startRealRegistry()
  bench = await createClientBench()
})
afterAll(async () => {
  await bench?.[Symbol.asyncDispose]()
  await registry?.[Symbol.asyncDispose]()
})

/** Builds an image, lets skopeo put it at the registry, and forgets it here; gives its reference. */
function publish(name: string, dockerfile: string, ...flags: readonly string[]): string {
  const archive = join(bench.work, `${randomBytes(4).toString('hex')}.tar`)
  const context = bench.context({ Dockerfile: dockerfile })
  bench.ok(['build', '-t', 'published:1', context])
  bench.ok(['save', '-o', archive, 'published:1'])
  const to = `${registry.host}/${name}`
  execFileSync(
    'skopeo',
    ['copy', '--dest-tls-verify=false', ...flags, `docker-archive:${archive}`, `docker://${to}`],
    {
      stdio: 'ignore',
    },
  )
  bench.ok(['rm', 'published:1'])
  return to
}

const blobGets = (name: string): readonly string[] =>
  registry.requests().filter((line) => line.startsWith(`GET /v2/${name}/blobs/`))

test('an image is pulled with the lines of the original, runs, and is not fetched again', () => {
  const reference = publish(
    'team/app:1',
    `FROM base:1\nRUN echo ${randomBytes(8).toString('hex')} > /secret\n`,
  )
  const output = bench.ok(['pull', reference])
  const lines = output.trimEnd().split('\n')
  expect(lines[0]).toBe('Getting image source signatures')
  expect(lines.filter((line) => /^Copying blob sha256:[0-9a-f]{64}/.test(line))).toHaveLength(2)
  expect(lines.slice(-3)).toEqual([
    'Writing manifest to image destination',
    'Storing signatures',
    `Pull success with image: ${reference}`,
  ])
  expect(bench.file(reference, '/secret')).toMatch(/[0-9a-f]{16}/)
  const before = blobGets('team/app').length
  bench.ok(['pull', '--policy', 'always', reference])
  expect(blobGets('team/app')).toHaveLength(before)
})

test('FROM pulls what is not here, with its ONBUILD, by tag and by digest', () => {
  const reference = publish('team/onbuild:1', 'FROM base:1\nONBUILD RUN echo triggered > /triggered\n')
  const output = bench.ok(['build', '-t', 'child:1', bench.context({ Dockerfile: `FROM ${reference}\n` })])
  expect(output).toMatch(/^Getting image source signatures\n(.*\n)*STEP {2}1: FROM /)
  expect(bench.file('child:1', '/triggered').trim()).toBe('triggered')
  const digest = JSON.parse(
    execFileSync('skopeo', ['inspect', '--tls-verify=false', `docker://${reference}`], { encoding: 'utf8' }),
  ).Digest as Digest
  const byDigest = `${registry.host}/team/onbuild@${digest}`
  const again = bench.ok(['build', bench.context({ Dockerfile: `FROM ${byDigest}\n` })])
  expect(again).not.toMatch(/Copying blob/)
  const other = `${registry.host}/team/onbuild:1@${digestOf('nothing')}`
  const failed = bench.run(['build', bench.context({ Dockerfile: `FROM ${other}\n` })])
  expect(failed.status).not.toBe(0)
  expect(failed.stderr).toMatch(/team\/onbuild/)
})

test('COPY --from takes from a registry too, zstd layers and all', () => {
  const reference = publish(
    'team/files:1',
    'FROM base:1\nRUN mkdir /data && echo copied > /data/file\n',
    ...['--format=oci', '--dest-compress-format=zstd'],
  )
  const dockerfile = `FROM base:1\nCOPY --from=${reference} /data/file /here\n`
  bench.ok(['build', '-t', 'copied:1', bench.context({ Dockerfile: dockerfile })])
  expect(bench.file('copied:1', '/here').trim()).toBe('copied')
})

test('of a list the image for the platform is taken, or the one that was asked for', async () => {
  publish('team/list:amd64', `FROM base:1\nENV FOR=amd64\n`, '--format=oci')
  const amd = await manifestOf('team/list', 'amd64')
  const arm = await forArm(amd.document)
  const index = {
    schemaVersion: 2,
    mediaType: mediaTypes.ociIndex,
    manifests: [
      { ...arm, platform: { os: 'linux', architecture: 'arm64' } },
      {
        ...{ mediaType: mediaTypes.ociManifest, digest: amd.digest, size: amd.size },
        platform: { os: 'linux', architecture: process.arch === 'x64' ? 'amd64' : process.arch },
      },
    ],
  }
  await putManifest('team/list', 'both', mediaTypes.ociIndex, JSON.stringify(index))
  const reference = `${registry.host}/team/list:both`
  bench.ok(['pull', reference])
  const [own] = bench.ok(['images', reference]).split('\n').slice(3)
  const listing = bench.ok(['pull', '-q', '--platform', 'linux/arm64', '--policy', 'always', reference])
  expect(listing.trim()).toBe(arm.imageId)
  expect(own).not.toContain(arm.imageId.slice(0, 12))
  const missing = bench.run(['pull', '--platform', 'linux/s390x', reference])
  expect(missing.status).toBe(1)
  expect(missing.stderr).toMatch(/no image for linux\/s390x, only for linux\/arm64/)
})

test('what is not there is an error that names where it was looked for, and names nothing', async () => {
  const reference = `${registry.host}/team/none:1`
  const { status, stderr } = bench.run(['pull', reference])
  expect(status).toBe(1)
  expect(stderr).toMatch(new RegExp(`pull image failed: .*${registry.host}`))
  const offline = bench.run(['build', '--pull=never', bench.context({ Dockerfile: `FROM ${reference}\n` })])
  expect(offline.stderr).toMatch(/not found in local store/)
  expect(bench.run(['images', reference]).status).not.toBe(0)
})

test('without its registry the newer policy uses what is here, the always policy fails', async () => {
  const reference = publish('team/away:1', 'FROM base:1\nENV A=1\n')
  bench.ok(['pull', reference])
  await registry.kill()
  try {
    const context = bench.context({ Dockerfile: `FROM ${reference}\n` })
    const fast = ['--retry', '0']
    const output = bench.ok(['build', '--pull=newer', ...fast, context])
    expect(output).toMatch(/\[Warning\] Using the local .*team\/away:1/)
    expect(bench.run(['build', '--pull=always', ...fast, context]).status).not.toBe(0)
  } finally {
    await registry.start()
  }
})

test('the store is sound after all of this', async () => {
  expect(await inspectStore(bench.daemon.data)).toEqual([])
})

interface Manifest {
  readonly config: { readonly mediaType: string; readonly digest: Digest; readonly size: number }
}

async function manifestOf(
  name: string,
  tag: string,
): Promise<{ readonly document: Manifest; readonly digest: Digest; readonly size: number }> {
  const response = await fetch(`${registry.origin}/v2/${name}/manifests/${tag}`, {
    headers: { accept: mediaTypes.ociManifest },
  })
  const text = await response.text()
  return { document: JSON.parse(text) as Manifest, digest: digestOf(text), size: Buffer.byteLength(text) }
}

/** The same image said to be for arm64, put beside it. */
async function forArm(document: Manifest) {
  const blob = await fetch(`${registry.origin}/v2/team/list/blobs/${document.config.digest}`)
  const config = JSON.stringify({ ...((await blob.json()) as object), architecture: 'arm64' })
  const digest = digestOf(config)
  const started = await fetch(`${registry.origin}/v2/team/list/blobs/uploads/`, { method: 'POST' })
  const location = new URL(started.headers.get('location') ?? '', registry.origin)
  location.searchParams.set('digest', digest)
  expect((await fetch(location, { method: 'PUT', body: config })).status).toBe(201)
  const manifest = JSON.stringify({
    ...document,
    config: { ...document.config, digest, size: Buffer.byteLength(config) },
  })
  await putManifest('team/list', digestOf(manifest), mediaTypes.ociManifest, manifest)
  return {
    ...{ mediaType: mediaTypes.ociManifest, digest: digestOf(manifest), size: Buffer.byteLength(manifest) },
    imageId: digest.slice('sha256:'.length),
  }
}

async function putManifest(name: string, reference: string, type: string, body: string): Promise<void> {
  const headers = { 'content-type': type }
  const answer = await fetch(`${registry.origin}/v2/${name}/manifests/${reference}`, {
    method: 'PUT',
    headers,
    body,
  })
  expect(answer.status, await answer.text()).toBe(201)
}
