import { createHash } from 'node:crypto'
import { chainingBytes, openSha256, stateBytes } from '../../system/sha256.js'
import { HASHED, HASHING, isHashable, SHARED, type Slots, signal, USED } from './slots.js'

/** The SHA-256 of a tar on its way through slots: in their order, but by whichever thread has time. */
export interface TarSum {
  /** Hashes one slot, if there is one that nobody hashes. */
  once(): boolean
  /** Of everything; once all slots are hashed. */
  digest(): Buffer
}

/** Where a sum stands after so many bytes of tar, a multiple of 64. */
export interface TarSumState {
  readonly chaining: Buffer
  readonly length: number
}

/** To be called by the thread of the job, before anything is in the slots. */
export function beginTarSum(slots: Slots): TarSum {
  const sha = openSha256()
  // Another thread may have it where this one has not.
  Atomics.store(slots.words, SHARED, 0)
  if (sha === undefined) {
    const hash = createHash('sha256')
    return { once: () => hashSlot(slots, (bytes) => hash.update(bytes)), digest: () => hash.digest() }
  }
  const state = slots.sum.subarray(0, stateBytes)
  sha.begin(state)
  Atomics.store(slots.words, SHARED, 1)
  return { once: () => helpTarSum(slots), digest: () => sha.finish(Buffer.from(state)) }
}

/** Can be told where sums are shared only. */
export function resumeTarSum({ sum }: Slots, { chaining, length }: TarSumState): void {
  openSha256()?.resume(sum.subarray(0, stateBytes), chaining, length)
}

export function sharesTarSums(): boolean {
  return openSha256() !== undefined
}

/** The chaining value after a slot that is hashed and not filled anew yet; its end has to be that of a block. */
export function chainingAfter({ sum }: Slots, slotIndex: number): Buffer {
  const at = stateBytes + slotIndex * chainingBytes
  return Buffer.from(sum.subarray(at, at + chainingBytes))
}

/** The same from any thread, where the sum is shared. */
export function helpTarSum(slots: Slots): boolean {
  if (Atomics.load(slots.words, SHARED) === 0) return false
  const sha = openSha256()
  if (sha === undefined) return false
  const state = slots.sum.subarray(0, stateBytes)
  return hashSlot(slots, (bytes, index) => {
    sha.update(state, bytes)
    state.copy(slots.sum, stateBytes + index * chainingBytes, 0, chainingBytes)
  })
}

function hashSlot(slots: Slots, update: (bytes: Buffer, slotIndex: number) => void): boolean {
  const { words } = slots
  if (!isHashable(slots, Atomics.load(words, HASHED))) return false
  if (Atomics.compareExchange(words, HASHING, 0, 1) !== 0) return false
  const number = Atomics.load(words, HASHED)
  const isReady = isHashable(slots, number)
  if (isReady) {
    const { data, head } = slots.slot(number)
    update(data.subarray(0, words[head + USED] ?? 0), number % slots.slots.length)
    Atomics.store(words, HASHED, number + 1)
  }
  Atomics.store(words, HASHING, 0)
  if (isReady) signal(slots)
  return isReady
}
