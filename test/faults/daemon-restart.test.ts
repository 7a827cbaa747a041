import { appendFileSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { env, getuid } from 'node:process'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { LayerRecord } from '../../packages/builder-daemon/src/ports/layer-store.js'
import { bundleEntry, databaseWorkerEntry } from '../support/bundled-worker.js'
import { createDaemonBench, type DaemonBench } from '../support/daemon-bench.js'
import { configBytes, openAt, publishContent } from '../support/temporary-store.js'

const images = 100
const layersOfEach = 10
const report = env['ISULA_KILL_REPORT']
let directory: string
let bench: DaemonBench | undefined

/** A store with 1,000 layers, made as builds would. */
async function fillStore(dataRoot: string): Promise<void> {
  const roots = { dataRoot, runRoot: join(directory, 'run'), remove: async () => undefined }
  const store = await openAt(roots, await bundleEntry(databaseWorkerEntry), { flushDelayMs: 1000 })
  try {
    const lease = await store.layers.acquireLease({ uid: 0, purpose: 'fill' })
    for (let image = 0; image < images; image++) {
      const layers: LayerRecord[] = await Promise.all(
        Array.from({ length: layersOfEach }, (_, index) => publishContent(store, lease, `${image} ${index}`)),
      )
      const ids = layers.map(({ id }) => id)
      const stored = { configBytes: configBytes(layers), layers: ids, names: [`many:${image}`], owner: 0 }
      await store.images.put(stored, lease)
    }
    await store.layers.releaseLease(lease)
  } finally {
    await store.close()
  }
}

describe.skipIf(getuid?.() !== 0)('a daemon with 1,000 layers (needs root)', () => {
  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'isula-many-'))
    await fillStore(join(directory, 'data'))
    bench = await createDaemonBench({ dataRoot: join(directory, 'data') })
  })
  afterAll(async () => {
    await bench?.[Symbol.asyncDispose]()
    rmSync(directory, { recursive: true, force: true })
  })

  test.each(['SIGTERM', 'SIGKILL'] as const)('answers within 2 s of its start after %s', async (signal) => {
    if (bench === undefined) throw new Error('there is no daemon')
    const times: number[] = []
    for (let round = 0; round < 3; round++) {
      const context = bench.context(`FROM base:1\nRUN echo ${signal}; sleep 66.5\n`)
      const build = bench.client(['ctr-img', 'build', context])
      await new Promise((resolve) => setTimeout(resolve, 300))
      if (signal === 'SIGTERM') build.child.kill('SIGKILL')
      await bench.kill(signal)
      await build.ended
      const ms = await bench.restart()
      times.push(ms)
      if (report !== undefined) appendFileSync(report, `${JSON.stringify({ layers: 1000, signal, ms })}\n`)
      expect(await bench.images()).toHaveLength(images + 1)
      await bench.expectSound()
    }
    // A busy machine only ever adds to it.
    expect(Math.min(...times)).toBeLessThan(2000)
  })
})
