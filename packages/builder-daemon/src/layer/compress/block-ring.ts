import type { JobControl } from '../job-control.js'
import { type BlockCompressor, blockSize, compressedLimit } from './compressor.js'

/**
 * Blocks on their way through the compressors of several threads, in memory that they share. One thread fills slots and
 * takes what came out, in order; whoever has time compresses the next slot, that thread too when it has to wait. So it
 * gets to its end without help, and what comes out does not depend on who helped.
 *
 * Words of the head: CLOSED, FILLED (blocks put in), NEXT (the first that nobody has begun), DONE (grows when one is
 * done), FAILED; then for each slot the lengths of input and output and the number, from 1, of the block that is done.
 */
const CLOSED = 0
const FILLED = 1
const NEXT = 2
const DONE = 3
const FAILED = 4
const firstSlot = 8
const slotWords = 3

/** Zeros in a ring that nobody has used. */
export const headBytes = 4096
const slotBytes = blockSize + compressedLimit
/** An abort is noticed so soon, milliseconds. */
const wakeUp = 50

/** Memory for a ring with this many slots. */
export function ringBytes(slots: number): number {
  return headBytes + slots * slotBytes
}

function ringOf(memory: SharedArrayBuffer, compressor: BlockCompressor) {
  const slots = Math.floor((memory.byteLength - headBytes) / slotBytes)
  if (slots < 1 || slots > 300) throw new Error(`${memory.byteLength} bytes are no ring`)
  const words = new Int32Array(memory, 0, headBytes / 4)
  const wordOf = (block: number, which: number): number => firstSlot + (block % slots) * slotWords + which
  const input = (block: number): Buffer =>
    Buffer.from(memory, headBytes + (block % slots) * slotBytes, blockSize)
  const output = (block: number): Buffer =>
    Buffer.from(memory, headBytes + (block % slots) * slotBytes + blockSize, compressedLimit)

  return {
    ...{ slots, words, input },
    isDone: (block: number): boolean => Atomics.load(words, wordOf(block, 2)) === block + 1,
    publish(block: number, length: number): void {
      Atomics.store(words, wordOf(block, 0), length)
      Atomics.store(words, FILLED, block + 1)
      Atomics.notify(words, FILLED)
    },
    /** The next block that nobody has begun is the caller's now. */
    claim(): number | undefined {
      for (;;) {
        const block = Atomics.load(words, NEXT)
        if (block >= Atomics.load(words, FILLED)) return undefined
        if (Atomics.compareExchange(words, NEXT, block, block + 1) === block) return block
      }
    },
    compress(block: number): void {
      const length = Atomics.load(words, wordOf(block, 0))
      Atomics.store(
        words,
        wordOf(block, 1),
        compressor.compress(input(block).subarray(0, length), output(block)),
      )
      Atomics.store(words, wordOf(block, 2), block + 1)
      Atomics.add(words, DONE, 1)
      Atomics.notify(words, DONE)
    },
    result: (block: number): Buffer => output(block).subarray(0, Atomics.load(words, wordOf(block, 1))),
  }
}

export interface BlockSink {
  append(bytes: Buffer): void
  /** Ends the last block and hands on all that is left. */
  finish(): void
  /** To be called in any case: lets helpers go. */
  close(): void
}

/** The thread that fills the ring. `output` gets the compressed blocks in order, valid during the call. */
export function fillRing(
  memory: SharedArrayBuffer,
  compressor: BlockCompressor,
  output: (bytes: Buffer) => void,
  control: JobControl,
): BlockSink {
  const ring = ringOf(memory, compressor)
  const { words } = ring
  let filled = 0
  let taken = 0
  let current = ring.input(0)
  let used = 0

  /** Until no more than `limit` blocks are under way. */
  function drain(limit: number): void {
    while (filled - taken > limit) {
      control.check()
      if (ring.isDone(taken)) {
        output(ring.result(taken))
        taken += 1
        continue
      }
      const block = ring.claim()
      if (block !== undefined) ring.compress(block)
      else {
        if (Atomics.load(words, FAILED) !== 0) throw new Error('a thread that helped to compress failed')
        const seen = Atomics.load(words, DONE)
        if (!ring.isDone(taken)) Atomics.wait(words, DONE, seen, wakeUp)
      }
    }
  }
  function publish(): void {
    ring.publish(filled, used)
    filled += 1
    used = 0
  }
  return {
    append(bytes) {
      for (let at = 0; at < bytes.length; ) {
        if (used === blockSize) publish()
        if (used === 0) {
          drain(ring.slots - 1)
          current = ring.input(filled)
        }
        const count = Math.min(bytes.length - at, blockSize - used)
        bytes.copy(current, used, at, at + count)
        used += count
        at += count
      }
    },
    finish() {
      if (used > 0 || filled === 0) publish()
      drain(0)
    },
    close() {
      Atomics.store(words, CLOSED, 1)
      Atomics.notify(words, FILLED)
    },
  }
}

/** A thread that helps until the ring is closed; gives how many blocks it did. */
export function helpWithRing(
  memory: SharedArrayBuffer,
  compressor: BlockCompressor,
  control: JobControl,
): number {
  const ring = ringOf(memory, compressor)
  const { words } = ring
  for (let blocks = 0; ; ) {
    control.check()
    const seen = Atomics.load(words, FILLED)
    if (Atomics.load(words, CLOSED) !== 0) return blocks
    const block = ring.claim()
    if (block === undefined) {
      Atomics.wait(words, FILLED, seen, wakeUp)
      continue
    }
    try {
      ring.compress(block)
      blocks += 1
    } catch (error) {
      Atomics.store(words, FAILED, 1)
      Atomics.notify(words, DONE)
      throw error
    }
  }
}
