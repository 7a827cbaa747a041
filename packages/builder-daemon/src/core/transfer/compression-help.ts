import type { LayerWorkers } from '../../ports/layer-worker.js'
import { createLimit, type Limit } from './limit.js'

/** Memory that two threads share, valid while the work with it lasts. */
type Work<T> = (memory: SharedArrayBuffer) => Promise<T>

/** Three blocks of 1 MiB and what comes out of them. */
const sharedBytes = (6 << 20) + (512 << 10)
/** What threads have seen of it is no secret between users: the compressor writes before it reads. */
const headBytes = 4096

interface Rings {
  readonly idle: SharedArrayBuffer[]
  readonly limit: Limit
}

/** Threads hold on to shared memory until they collect garbage, so it is made once and used again and again. */
const ringsOf = new WeakMap<LayerWorkers, Rings>()

/**
 * Runs work of two threads. As many at once as there are pairs of threads: a layer that both have done soon is on its way
 * while the next one is compressed, and none is left over for one thread at the end.
 */
export async function inPairs<T>(workers: LayerWorkers, work: Work<T>): Promise<T> {
  const rings = ringsOf.get(workers) ?? { idle: [], limit: createLimit(pairsOf(workers)) }
  ringsOf.set(workers, rings)
  return await rings.limit(async () => {
    const memory = rings.idle.pop() ?? new SharedArrayBuffer(sharedBytes)
    new Uint8Array(memory, 0, headBytes).fill(0)
    try {
      return await work(memory)
    } finally {
      rings.idle.push(memory)
    }
  })
}

function pairsOf({ size = 2 }: LayerWorkers): number {
  return Math.max(1, Math.floor(size / 2))
}
