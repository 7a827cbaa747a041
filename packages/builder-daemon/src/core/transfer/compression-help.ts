import type { LayerWorkers } from '../../ports/layer-worker.js'

/** Memory that two threads share; to be given back when neither uses it any more. */
export interface SharedMemory extends Disposable {
  readonly memory: SharedArrayBuffer
}

/** Three blocks of 1 MiB and what comes out of them. */
const sharedBytes = (6 << 20) + (512 << 10)
/** With more layers under way than this, every thread has something to do anyway. */
const maxShared = 2
/** What threads have seen of it is no secret between users: the compressor writes before it reads. */
const headBytes = 4096

interface Rings {
  readonly idle: SharedArrayBuffer[]
  made: number
}

/** Threads hold on to shared memory until they collect garbage, so it is made twice and used again and again. */
const ringsOf = new WeakMap<LayerWorkers, Rings>()

/** undefined when enough layers are compressed with help already. */
export function borrowShared(workers: LayerWorkers): SharedMemory | undefined {
  const rings = ringsOf.get(workers) ?? { idle: [], made: 0 }
  ringsOf.set(workers, rings)
  let memory = rings.idle.pop()
  if (memory === undefined) {
    if (rings.made === maxShared) return undefined
    rings.made += 1
    memory = new SharedArrayBuffer(sharedBytes)
  }
  const borrowed = memory
  new Uint8Array(borrowed, 0, headBytes).fill(0)
  return {
    memory: borrowed,
    [Symbol.dispose]: () => void rings.idle.push(borrowed),
  }
}
