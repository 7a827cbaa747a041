import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { getuid } from 'node:process'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { pushImage } from '../../packages/builder-daemon/src/core/transfer/push.js'
import type { PushShape, TransferCall } from '../../packages/builder-daemon/src/core/transfer/transfer.js'
import type { ImageRecord } from '../../packages/builder-daemon/src/ports/image-store.js'
import type { LayerWorkers } from '../../packages/builder-daemon/src/ports/layer-worker.js'
import type { Endpoint, RegistryClient } from '../../packages/builder-daemon/src/ports/registry.js'
import { createTransferClient } from '../../packages/builder-daemon/src/workers/transfer-client.js'
import { digestOf } from '../../packages/shared/src/oci/digest.js'
import { bundleEntry } from '../support/bundled-worker.js'
import { containersTool, runTool, skopeo, startDocker, unmountBelow } from '../support/judges.js'
import { openPushWorkshop, type PushBench, type PushWorkshop } from '../support/push-bench.js'
import { registryCall, startDockerRegistry, testLimits } from '../support/registry-bench.js'
import { silentLogger } from '../support/silent-logger.js'

const asItIs: PushShape = { format: undefined, compression: undefined, level: undefined }

describe.skipIf(getuid?.() !== 0)('what is pushed to a registry (needs root)', () => {
  let workshop: PushWorkshop
  let bench: PushBench
  let client: RegistryClient & AsyncDisposable
  let server: Awaited<ReturnType<typeof startDockerRegistry>>
  let endpoint: Endpoint
  let image: ImageRecord
  let scratch: string
  const big = Buffer.alloc(24 << 20)
  for (let at = 0; at < big.length; at += 4) big.writeUInt32LE((at * 2_654_435_761) >>> (at % 23), at)

  beforeAll(async () => {
    scratch = mkdtempSync(join(tmpdir(), 'isula-push-'))
    server = await startDockerRegistry()
    endpoint = server.endpoint
    const entry = await bundleEntry('packages/builder-daemon/src/workers/transfer-worker.ts')
    const http = { certificates: [], environment: {}, limits: testLimits }
    client = createTransferClient({ entry, http, log: silentLogger })
    workshop = await openPushWorkshop()
    bench = await workshop.open({}, client)
    image = await bench.imageOf([
      await bench.layerWith({ 'etc/hello': 'hello\n' }),
      await bench.layerWith({ 'usr/lib/big': big }),
      await bench.layerWith({}),
    ])
  })
  afterAll(async () => {
    await bench?.close()
    await workshop?.[Symbol.asyncDispose]()
    await client?.[Symbol.asyncDispose]()
    await server?.[Symbol.asyncDispose]()
    rmSync(scratch, { recursive: true, force: true })
  })

  function call(lines: string[] = []): TransferCall {
    return { ...registryCall(), lease: bench.lease, onLog: (line) => lines.push(line) }
  }

  const shapes: readonly [string, PushShape][] = [
    ['docker', asItIs],
    ['oci', { ...asItIs, format: 'oci' }],
    ['slow-gzip', { ...asItIs, compression: 'gzip', level: 6 }],
    ['zstd', { ...asItIs, compression: 'zstd' }],
  ]

  test.each(shapes)('skopeo reads %s', async (tag, shape) => {
    const result = await pushImage(image, { endpoint, reference: tag }, shape, bench.services, call())
    const name = `docker://${endpoint.host}/${endpoint.repository}:${tag}`
    const raw = skopeo('inspect', '--tls-verify=false', '--raw', name)
    expect(digestOf(raw)).toBe(result.digest)
    const target = join(scratch, tag)
    skopeo('copy', '--src-tls-verify=false', name, `oci:${target}:x`)
    const layout = JSON.parse(readFileSync(join(target, 'index.json'), 'utf8'))
    const blob = (digest: string) => readFileSync(join(target, 'blobs/sha256', digest.slice(7)))
    const manifest = JSON.parse(blob(layout.manifests[0].digest).toString('utf8'))
    const config = JSON.parse(blob(manifest.config.digest).toString('utf8'))
    // Unpacked by another program they are what the config says.
    const diffIds = manifest.layers.map((layer: { digest: string }) => {
      const packed = join(target, 'blobs/sha256', layer.digest.slice(7))
      const program = shape.compression === 'zstd' ? 'zstd' : 'gzip'
      return `sha256:${runTool('sh', ['-c', `${program} -dc <'${packed}' | sha256sum`]).slice(0, 64)}`
    })
    expect(diffIds).toEqual(config.rootfs.diff_ids)
  })

  test('docker pulls it and has its files', async () => {
    await using daemon = await startDocker()
    // Before version 23 it cannot unpack zstd, whoever made it.
    for (const [tag, shape] of shapes.filter(([, { compression }]) => compression !== 'zstd')) {
      await pushImage(image, { endpoint, reference: tag }, shape, bench.services, call())
      const name = `${endpoint.host}/${endpoint.repository}:${tag}`
      daemon.docker('pull', '-q', name)
      expect(daemon.docker('inspect', '-f', '{{.Id}}', name).trim()).toBe(`sha256:${image.id}`)
      daemon.docker('create', '--name', 'judge', name, '/none')
      const target = join(scratch, `from-docker-${tag}`)
      daemon.docker('cp', 'judge:/usr/lib/big', target)
      expect(readFileSync(target).equals(big)).toBe(true)
      daemon.docker('rm', 'judge')
      daemon.docker('rmi', name)
    }
  })

  test('podman pulls it, layers and all', async () => {
    const podman = containersTool('podman', scratch)
    try {
      for (const [tag, shape] of shapes) {
        await pushImage(image, { endpoint, reference: tag }, shape, bench.services, call())
        const name = `${endpoint.host}/${endpoint.repository}:${tag}`
        expect(podman('pull', '-q', '--tls-verify=false', name).trim()).toBe(image.id)
        podman('rmi', '-f', image.id)
      }
    } finally {
      unmountBelow(scratch)
    }
  })

  test('a second push sends nothing, and one to another repository mounts', async () => {
    await pushImage(image, { endpoint, reference: 'again' }, asItIs, bench.services, call())
    const lines: string[] = []
    await pushImage(image, { endpoint, reference: 'again2' }, asItIs, bench.services, call(lines))
    expect(lines.filter((line) => line.endsWith('skipped: already exists'))).toHaveLength(3)
    const other = { ...endpoint, repository: 'other/place' }
    const mounted: string[] = []
    await pushImage(image, { endpoint: other, reference: '1' }, asItIs, bench.services, call(mounted))
    expect(mounted.filter((line) => line.includes('skipped: mounted from team/app'))).toHaveLength(3)
    skopeo('inspect', '--tls-verify=false', `docker://${endpoint.host}/other/place:1`)
  })

  test('a push that was aborted in the middle goes on with what is missing', async () => {
    const repository = 'interrupted/app'
    const small = await bench.layerWith({ a: 'small' })
    const long = await bench.layerWith({ b: Buffer.from(big).reverse() })
    const fresh = await bench.imageOf([small, long], 'interrupted:1')
    const stop = new AbortController()
    const { workers, layers } = bench.services
    // Soon after it begins to be compressed, and sent meanwhile, which takes several times as long.
    const watching: LayerWorkers = {
      run(job, params, signal) {
        const isLong = 'layerDirectory' in params && params.layerDirectory === layers.directory(long.id)
        if (job === 'compressLayer' && isLong) setTimeout(() => stop.abort(), 30)
        return workers.run(job, params, signal)
      },
    }
    const first = pushImage(
      fresh,
      { endpoint: { ...endpoint, repository }, reference: '1' },
      asItIs,
      { ...bench.services, workers: watching },
      { ...call(), signal: stop.signal },
    )
    await expect(first).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
    await pushImage(
      fresh,
      { endpoint: { ...endpoint, repository }, reference: '1' },
      asItIs,
      bench.services,
      call(),
    )
    skopeo('inspect', '--tls-verify=false', `docker://${endpoint.host}/${repository}:1`)
    expect(await bench.files()).toEqual([])
  })
})
