import { createHash, type Hash } from 'node:crypto'
import { type DiffId, digestFromHex } from '@isula-build/shared/oci/digest.js'
import type { JobControl } from '../job-control.js'
import type { Collector } from '../tar/collector.js'
import { emptyDigest, pieceBytes, wholeLimit } from './content-digest.js'
import { CLOSED, LOST, SIGNAL } from './head.js'
import { failureOf } from './help.js'
import {
  attachSlots,
  awaitSignal,
  BUSY,
  createSlotMemory,
  digestBytes,
  digestOnce,
  FILLED,
  isDone,
  OWN_WORDS,
  operationsBytes,
  type Perform,
  piecesPerSlot,
  publish,
  type Slots,
  signal,
  slotBytes,
  slotCount,
  WAITING,
  WRITTEN,
  writeOnce,
} from './slots.js'
import { beginTarSum, chainingAfter, resumeTarSum, sharesTarSums, type TarSumState } from './tar-sum.js'

/** Called for everything that is in the tar, in its order; the digest is valid during the call. */
export type Settle = (digest: Buffer | undefined) => void

/**
 * The end of a layer job that makes the tar: operations, the hash of the tar and content digests of what it puts in are
 * done by the threads that help, if any come, and by this one whenever it would have to wait.
 */
export interface Pipeline extends Disposable {
  readonly slots: Slots
  /** The tar goes in here. */
  readonly collector: Collector
  /** Room for one operation, to be filled before any other call; see `upper-operations`. */
  operation(bytes: number): { readonly words: Int32Array; readonly bytes: Buffer; readonly at: number }
  /**
   * The payload of a file in pieces that lie in one slot: whole up to `wholeLimit`, then of `pieceBytes` each. `placed` is
   * called for each before the slot can go. False when `read` gave nothing before the end. Belongs to the next `log`.
   */
  content(
    size: number,
    read: (target: Buffer, offset: number, length: number) => number,
    placed: (offset: number, length: number) => void,
  ): boolean
  /**
   * Makes room for the payload of a file of up to `wholeLimit` bytes; an operation that `placed` puts down brings it.
   * Belongs to the next `log`.
   */
  broughtContent(size: number, placed: (offset: number, length: number) => void): void
  /** The next entry of the tar: called before its `content`, with the size of that or 'none' for what is no file. */
  log(content: number | 'none', settle: Settle): void
  /**
   * Tells, after everything that was put in before and before all that comes later, what the sum of the tar is here;
   * undefined where that cannot be had. The tar has to stand at a multiple of 64 bytes.
   */
  mark(settle: (state: TarSumState | undefined) => void): void
  /** Goes on with another sum, as long as nothing of a tar was put in. Only with what `mark` told. */
  resume(state: TarSumState): void
  /** Waits until all operations are carried out; what is asked for next may be done here directly. */
  drain(): void
}

interface Entry {
  pieces: number
  readonly size: number
  hash: Hash | undefined
  /** Not to be settled before this slot is taken; -1 for none. */
  readonly slot: number
  readonly settle: Settle
}

/** Bytes that make it worth while to have others help, and what makes a third thread so. */
const helpFrom = 4 * slotBytes
const secondHelpFrom = 16 * pieceBytes

/** Room for a path component, a link target and numbers, bytes. */
export const longestOperation = 8192

let idle: SharedArrayBuffer | undefined

export function createPipeline(perform: Perform, control: JobControl): Pipeline {
  const memory = idle ?? createSlotMemory()
  idle = undefined
  const slots = attachSlots(memory)
  const { words } = slots
  // These two count on: a thread may still be about to notice that the job before is over.
  for (let index = 0; index < OWN_WORDS; index += 1) {
    if (index !== BUSY && index !== WAITING) Atomics.store(words, index, 0)
  }

  const sum = beginTarSum(slots)
  let tarSize = 0
  let helpers = 0
  let filled = 0
  let taken = 0
  let slot = slots.slot(0)
  let used = 0
  let operations = 0
  let pieces = 0
  let isBrought = false
  const entries: Entry[] = []
  let firstEntry = 0

  function check(): void {
    control.check()
    const failure = failureOf(slots)
    if (failure !== undefined) throw failure
    if (Atomics.load(words, LOST) !== 0) throw new Error('a thread that helped with a layer died')
  }
  function askForHelp(wanted: number): void {
    for (; helpers < wanted; helpers += 1) control.help?.(memory)
  }
  function settleEmpty(): void {
    for (let entry = entries[firstEntry]; entry?.pieces === 0; entry = entries[firstEntry]) {
      if (entry.slot >= taken) return
      firstEntry += 1
      entry.settle(entry.size < 0 ? undefined : emptyDigest)
    }
    if (firstEntry === entries.length || firstEntry > 4096) {
      entries.splice(0, firstEntry)
      firstEntry = 0
    }
  }
  function settleNext(digest: Buffer): void {
    settleEmpty()
    const entry = entries[firstEntry]
    if (entry === undefined) throw new Error('a piece of content that nobody put in')
    entry.pieces -= 1
    if (entry.size > wholeLimit) {
      entry.hash ??= createHash('sha256')
      entry.hash.update(digest)
    }
    if (entry.pieces > 0) return
    firstEntry += 1
    entry.settle(entry.hash?.digest() ?? digest)
  }
  function take(): void {
    while (taken < filled && isDone(slots, taken)) {
      const { digests, head } = slots.slot(taken)
      const count = words[head + 1] ?? 0
      for (let at = 0; at < count; at += 1)
        settleNext(digests.subarray(at * digestBytes, (at + 1) * digestBytes))
      taken += 1
    }
    settleEmpty()
  }
  function waitUntil(ready: () => boolean): void {
    for (;;) {
      const seen = Atomics.load(words, SIGNAL)
      check()
      take()
      if (ready()) return
      if (!(sum.once() || digestOnce(slots) || writeOnce(slots, perform))) awaitSignal(slots, seen)
    }
  }
  function flush(): void {
    if (used === 0 && operations === 0) return
    publish(slots, filled, { used, operations, pieces, isBrought })
    tarSize += used
    filled += 1
    if (tarSize >= helpFrom || filled >= slotCount / 2) askForHelp(1)
    waitUntil(() => filled - taken < slotCount)
    slot = slots.slot(filled)
    used = 0
    operations = 0
    pieces = 0
    isBrought = false
  }
  function room(bytes: number): void {
    if (used + bytes > slotBytes) flush()
  }
  function place(offset: number, length: number): void {
    slot.pieces[pieces * 2] = offset
    slot.pieces[pieces * 2 + 1] = length
    pieces += 1
  }

  const reserved = { buffer: slot.data, at: 0 }
  const collector: Collector = {
    append(bytes) {
      for (let at = 0; at < bytes.length; ) {
        room(1)
        const count = Math.min(bytes.length - at, slotBytes - used)
        bytes.copy(slot.data, used, at, at + count)
        used += count
        at += count
      }
    },
    zeros(count) {
      room(count)
      slot.data.fill(0, used, used + count)
      used += count
    },
    fill(limit, read) {
      room(1)
      const count = read(slot.data, used, Math.min(limit, slotBytes - used))
      used += count
      return count
    },
    reserve(count) {
      room(count)
      reserved.buffer = slot.data
      reserved.at = used
      used += count
      return reserved
    },
    finish() {
      flush()
      waitUntil(() => taken === filled)
      return { diffId: digestFromHex(sum.digest().toString('hex')) as DiffId, tarSize }
    },
  }

  return {
    slots,
    collector,
    operation(bytes) {
      const length = (bytes + 3) & ~3
      if (length > longestOperation) throw new Error('an operation of this size has no room')
      if (operations + length > operationsBytes) flush()
      const at = operations
      operations += length
      return { words: slot.operations, bytes: slot.operationBytes, at }
    },
    content(size, read, placed) {
      const piece = size > wholeLimit ? pieceBytes : size
      if (size >= secondHelpFrom) askForHelp(2)
      for (let left = size; left > 0; ) {
        const length = Math.min(left, piece)
        // The operation that goes with the piece has to go into the same slot.
        if (operations + longestOperation > operationsBytes || pieces === piecesPerSlot) flush()
        room(length)
        const offset = used
        for (let at = 0; at < length; ) {
          const count = read(slot.data, offset + at, length - at)
          if (count === 0) return false
          at += count
        }
        used += length
        left -= length
        place(offset, length)
        placed(offset, length)
      }
      return true
    },
    broughtContent(size, placed) {
      if (operations + longestOperation > operationsBytes || pieces === piecesPerSlot) flush()
      room(size)
      const offset = used
      used += size
      isBrought = true
      place(offset, size)
      placed(offset, size)
    },
    log(content, settle) {
      const size = content === 'none' ? -1 : content
      const count = size <= 0 ? 0 : size > wholeLimit ? Math.ceil(size / pieceBytes) : 1
      entries.push({ pieces: count, size, hash: undefined, slot: -1, settle })
    },
    mark(settle) {
      flush()
      const last = filled - 1
      const length = tarSize
      const settleHere = (): void =>
        settle(sharesTarSums() ? { chaining: chainingAfter(slots, last % slotCount), length } : undefined)
      entries.push({ pieces: 0, size: -1, hash: undefined, slot: last, settle: settleHere })
    },
    resume(state) {
      flush()
      waitUntil(() => taken === filled)
      if (tarSize > 0) throw new Error('a part of the tar is hashed already')
      resumeTarSum(slots, state)
      tarSize = state.length
    },
    drain() {
      flush()
      waitUntil(() => Atomics.load(words, WRITTEN) === Atomics.load(words, FILLED))
    },
    [Symbol.dispose]() {
      Atomics.store(words, CLOSED, 1)
      signal(slots)
      for (;;) {
        const seen = Atomics.load(words, SIGNAL)
        const lost = Atomics.load(words, LOST)
        if (Atomics.load(words, BUSY) <= lost) {
          if (lost === 0) idle = memory
          return
        }
        awaitSignal(slots, seen)
      }
    },
  }
}
