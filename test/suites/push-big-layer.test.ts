import { randomBytes } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { getuid } from 'node:process'
import { gunzipSync } from 'node:zlib'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { pushImage } from '../../packages/builder-daemon/src/core/transfer/push.js'
import type { TransferCall } from '../../packages/builder-daemon/src/core/transfer/transfer.js'
import type { LayerRecord } from '../../packages/builder-daemon/src/ports/layer-store.js'
import type {
  CompressLayerParams,
  LayerWorkers,
} from '../../packages/builder-daemon/src/ports/layer-worker.js'
import { BuilderError } from '../../packages/shared/src/errors/builder-error.js'
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
  const compressed = (layer: LayerRecord, name: string) =>
    workshop.workers.run('compressLayer', {
      ...{ layerDirectory: bench.store.layers.directory(layer.id), keepsHeaders: false },
      ...{ file: join(bench.roots.dataRoot, name), expectedDiffId: undefined },
      ...{ compression: 'gzip', level: undefined },
    })

  test('a big layer is compressed by two threads, to the same bytes as by one', async () => {
    const content = Buffer.alloc(40 << 20)
    for (let at = 0; at < content.length; at += 4)
      content.writeUInt32LE((at * 2_654_435_761) >>> (at % 19), at)
    const layer = await bench.layerWith({ big: content })
    const image = await bench.imageOf([layer])
    // With two threads there: one that has to start first might find nothing left to do.
    const small = await bench.layerWith({ small: 'x' })
    await Promise.all(['one', 'two'].map(async (name) => await compressed(small, name)))
    const helpers: Promise<unknown>[] = []
    const watching: LayerWorkers = {
      run(job, params, signal) {
        if (job !== 'helpCompression') return workshop.workers.run(job, params, signal)
        // Cancelled when it is not needed any more, which may come before it has said what it did.
        const result = workshop.workers.run(job, params)
        helpers.push(result)
        return result
      },
    }
    await pushImage(image, tagged, asItIs, { ...bench.services, workers: watching }, call())
    const [help] = await Promise.all(helpers)
    expect(helpers).toHaveLength(1)
    expect((help as { blocks: number }).blocks).toBeGreaterThan(0)
    const [[withHelp, bytes] = []] = layersSent(image.id)
    expect(digestOf(gunzipSync(bytes ?? ''))).toBe(layer.diffId)
    const alone = await compressed(layer, 'alone')
    expect(alone.digest).toBe(withHelp)
  })

  /** A layer whose blob is many pieces long. */
  const noise = (mebibytes: number) => bench.layerWith({ big: randomBytes(mebibytes << 20) })
  const uploads = () => bench.registry.requests.filter((request) => /^(?:stream|upload)/.test(request))

  test('is sent while it is made, and is in no file', async () => {
    const layer = await noise(20)
    const image = await bench.imageOf([layer])
    const made: CompressLayerParams[] = []
    const watching: LayerWorkers = {
      run(job, params, signal) {
        if (job === 'compressLayer') made.push(params as CompressLayerParams)
        return workshop.workers.run(job, params, signal)
      },
    }
    await pushImage(image, tagged, asItIs, { ...bench.services, workers: watching }, call())
    // The other upload is the configuration's.
    expect(uploads().map((request) => request.split(' ')[0])).toEqual(
      expect.arrayContaining(['stream', 'upload']),
    )
    expect(made).toHaveLength(1)
    const [[, bytes] = []] = layersSent(image.id)
    expect(digestOf(gunzipSync(bytes ?? ''))).toBe(layer.diffId)
    // Its digest is known by now, so nothing is made to find out that it is there.
    await pushImage(image, tagged, asItIs, { ...bench.services, workers: watching }, call())
    expect(made).toHaveLength(1)
    expect(await bench.files()).toEqual([])
  })

  test('goes from a file to who does not take streams, or takes them too slowly', async () => {
    const image = await bench.imageOf([await noise(20)])
    bench.registry.beforeStream = async () => false
    await pushImage(image, tagged, asItIs, bench.services, call())
    expect(uploads().map((request) => request.split(' ')[0])).toEqual(
      expect.arrayContaining(['stream', 'upload', 'upload']),
    )
    expect(layersSent(image.id)).toHaveLength(1)

    const slow = await bench.imageOf([await noise(21)])
    const asked = () =>
      bench.registry.requests.filter((request) => request.startsWith('has r.test:5000/slow/b'))
    bench.registry.beforeStream = async () => {
      // Nobody waits for it: the digest is known, and asked for, before anything is sent.
      await expect.poll(() => asked().length, { timeout: 20_000 }).toBe(2)
      return true
    }
    const other = { endpoint: { ...endpoint, repository: 'slow/b' }, reference: '1' }
    await pushImage(slow, other, asItIs, bench.services, call())
    const [config, ...layers] = [...(bench.registry.blobs.get('r.test:5000/slow/b')?.keys() ?? [])]
    expect([config === undefined, layers.length]).toEqual([false, 1])
    expect(await bench.files()).toEqual([])
  })

  test('that turns out to be damaged is reported, and a failure of the registry is told', async () => {
    const layer = await noise(20)
    const image = await bench.imageOf([layer])
    bench.registry.beforeStream = () => {
      throw new BuilderError('ISB_REGISTRY_DENIED', 'you may not')
    }
    const refused = pushImage(image, tagged, asItIs, bench.services, call())
    await expect(refused).rejects.toMatchObject({ code: 'ISB_REGISTRY_DENIED', message: 'you may not' })
    bench.registry.beforeStream = async () => true
    const path = join(bench.store.layers.directory(layer.id), 'diff', 'big')
    writeFileSync(path, randomBytes(20 << 20))
    const damaged = pushImage(image, tagged, asItIs, bench.services, call())
    await expect(damaged).rejects.toMatchObject({ code: 'ISB_IMAGE_DAMAGED' })
    expect(layersSent(image.id)).toEqual([])
    expect(bench.registry.manifests.size).toBe(0)
    expect(await bench.files()).toEqual([])
  })

  test('is left by both threads when the push is cancelled', async () => {
    const image = await bench.imageOf([await noise(30)])
    const stop = new AbortController()
    bench.registry.beforeStream = async (signal) => {
      stop.abort()
      signal.throwIfAborted()
      return true
    }
    const cancelled = pushImage(image, tagged, asItIs, bench.services, { ...call(), signal: stop.signal })
    await expect(cancelled).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
    expect(await bench.files()).toEqual([])
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
