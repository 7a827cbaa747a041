import { join } from 'node:path'
import { getuid } from 'node:process'
import { gunzipSync } from 'node:zlib'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { pushImage } from '../../packages/builder-daemon/src/core/transfer/push.js'
import type { TransferCall } from '../../packages/builder-daemon/src/core/transfer/transfer.js'
import type { LayerWorkers } from '../../packages/builder-daemon/src/ports/layer-worker.js'
import { digestHex, digestOf } from '../../packages/shared/src/oci/digest.js'
import { anonymous } from '../support/memory-registry.js'
import { openPushWorkshop, type PushBench, type PushWorkshop } from '../support/push-bench.js'

const asItIs = { format: undefined, compression: undefined, level: undefined }
const endpoint = { host: 'r.test:5000', repository: 'a/b', insecure: true, mirror: false }
const tagged = { endpoint, reference: '1' }

let workshop: PushWorkshop
let bench: PushBench

beforeAll(async () => {
  workshop = await openPushWorkshop()
})
afterAll(() => workshop[Symbol.asyncDispose]())
beforeEach(async () => {
  bench = await workshop.open()
})
afterEach(() => bench.close())

function call(): TransferCall {
  const { signal } = new AbortController()
  return { access: anonymous, lease: bench.lease, signal, onLog: () => undefined }
}

/** Digest and content of what was sent but for the configuration. */
const layersSent = (imageId: string) =>
  [...(bench.registry.blobs.get('r.test:5000/a/b') ?? [])].filter(([digest]) => digestHex(digest) !== imageId)

describe.skipIf(getuid?.() !== 0)('the push of a big layer (needs root)', () => {
  test('a big layer is compressed by two threads, to the same bytes as by one', async () => {
    const content = Buffer.alloc(40 << 20)
    for (let at = 0; at < content.length; at += 4)
      content.writeUInt32LE((at * 2_654_435_761) >>> (at % 19), at)
    const layer = await bench.layerWith({ big: content })
    const image = await bench.imageOf([layer])
    const helpers: Promise<unknown>[] = []
    const watching: LayerWorkers = {
      run(job, params, signal) {
        const result = workshop.workers.run(job, params, signal)
        if (job === 'helpCompression') helpers.push(result)
        return result
      },
    }
    await pushImage(image, tagged, asItIs, { ...bench.services, workers: watching }, call())
    const [help] = await Promise.all(helpers)
    expect(helpers).toHaveLength(1)
    expect((help as { blocks: number }).blocks).toBeGreaterThan(0)
    const [[withHelp, bytes] = []] = layersSent(image.id)
    expect(digestOf(gunzipSync(bytes ?? ''))).toBe(layer.diffId)
    const alone = await workshop.workers.run('compressLayer', {
      ...{ layerDirectory: bench.store.layers.directory(layer.id), keepsHeaders: false },
      ...{ file: join(bench.roots.dataRoot, 'alone'), expectedDiffId: undefined },
      ...{ compression: 'gzip', level: undefined },
    })
    expect(alone.digest).toBe(withHelp)
  })

  test('a helper that dies fails the push instead of holding it up, and the next one goes well', async () => {
    const layer = await bench.layerWith({ big: Buffer.alloc(20 << 20, 'x') })
    const image = await bench.imageOf([layer])
    const dying: LayerWorkers = {
      run(job, params, signal) {
        if (job !== 'helpCompression') return workshop.workers.run(job, params, signal)
        return Promise.reject(new Error('a layer thread died'))
      },
    }
    const push = pushImage(image, tagged, asItIs, { ...bench.services, workers: dying }, call())
    await expect(push).rejects.toThrow('a layer thread died')
    expect(bench.registry.manifests.size).toBe(0)
    await pushImage(image, tagged, asItIs, bench.services, call())
    expect(bench.registry.manifests.size).toBe(2)
  })
})
