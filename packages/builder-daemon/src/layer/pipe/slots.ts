import { hash } from 'node:crypto'
import { addressOf } from '../../system/libc.js'
import { pieceBytes } from './content-digest.js'
import { SIGNAL } from './head.js'

/**
 * Memory that the threads of one layer job share: a tar on its way through slots. The thread of the job fills them in
 * order; each slot then has its operations carried out and its tar hashed (each in order, by one thread at a time) and the
 * pieces of content in it digested (in any order), by whoever has time; the thread of the job takes it back when all is done.
 *
 * The state of who carries out operations lies here too, so every slot may be another thread's.
 */
export interface Slots {
  readonly memory: SharedArrayBuffer
  readonly words: Int32Array
  readonly slots: readonly Slot[]
  readonly failure: Buffer
  /** What `tar-sum` keeps. */
  readonly sum: Buffer
  slot(number: number): Slot
}

export interface Slot {
  /** The tar; begins at a page, so that it can be written past the page cache. */
  readonly data: Buffer
  /** Operations, as whoever fills and whoever carries them out understand them. */
  readonly operations: Int32Array
  readonly operationBytes: Buffer
  /** Offset and length of each piece. */
  readonly pieces: Int32Array
  readonly digests: Buffer
  /** Index in `words` of its own words. */
  readonly head: number
}

// Words of the head, after those of `head`.
export const FILLED = 3
export const WRITTEN = 4
export const WRITING = 5
export const BUSY = 6
/** Bytes of the failure's text; 0 when there is none. */
export const FAILED = 7
/** Threads that wait for SIGNAL: to wake nobody costs as much as to write a file. */
export const WAITING = 8
/** Slots whose tar is hashed, and whether a thread hashes one. */
export const HASHED = 9
export const HASHING = 10
/** 1 when any thread may hash: the sum lies here. */
export const SHARED = 11
/** The first word that belongs to whoever carries out operations. */
export const OWN_WORDS = 16

// Words of a slot.
export const OPERATIONS = 0
export const PIECES = 1
export const DIGESTS = 2
/** Bytes of the tar. */
export const USED = 3
/** 1 when the operations bring a part of those. */
const BROUGHT = 4
const slotWords = 8

const WANTED = 1
const CLAIMED = 2
const DONE = 3
/** Not before the operations are carried out, which bring the content. */
const LATER = 4

export const slotCount = 8
export const slotBytes = pieceBytes
export const operationsBytes = 1 << 16
export const piecesPerSlot = 256
export const digestBytes = 32

const page = 4096
const slotHeads = OWN_WORDS + 4608
const sumAt = slotHeads + slotCount * slotWords
const headBytes = 5 * page
const failureBytes = page
const sideBytes = operationsBytes + piecesPerSlot * (8 + digestBytes)
const stride = Math.ceil((slotBytes + sideBytes) / page) * page
/** An abort or a lost thread is noticed so soon, milliseconds. */
const wakeUp = 50

export function createSlotMemory(): SharedArrayBuffer {
  return new SharedArrayBuffer(headBytes + failureBytes + page + slotCount * stride)
}

export function attachSlots(memory: SharedArrayBuffer): Slots {
  const words = new Int32Array(memory, 0, headBytes / 4)
  const failure = Buffer.from(memory, headBytes, failureBytes)
  const begin = headBytes + failureBytes
  const misaligned = Number(addressOf(Buffer.from(memory, begin)) % BigInt(page))
  const first = begin + ((page - misaligned) % page)
  const slots: Slot[] = []
  for (let index = 0; index < slotCount; index += 1) {
    const data = first + index * stride
    const side = data + slotBytes
    const pieces = side + operationsBytes
    slots.push({
      data: Buffer.from(memory, data, slotBytes),
      operations: aligned(memory, side, operationsBytes),
      operationBytes: Buffer.from(memory, side, operationsBytes),
      pieces: aligned(memory, pieces, piecesPerSlot * 8),
      digests: Buffer.from(memory, pieces + piecesPerSlot * 8, piecesPerSlot * digestBytes),
      head: slotHeads + index * slotWords,
    })
  }
  const slot = (number: number): Slot => {
    const found = slots[number % slotCount]
    if (found === undefined) throw new Error('no such slot')
    return found
  }
  const sum = Buffer.from(memory, sumAt * 4, headBytes - sumAt * 4)
  return { memory, words, slots, failure, sum, slot }
}

function aligned(memory: SharedArrayBuffer, offset: number, length: number): Int32Array {
  return new Int32Array(memory, offset, length / 4)
}

export function signal({ words }: Slots): void {
  Atomics.add(words, SIGNAL, 1)
  if (Atomics.load(words, WAITING) > 0) Atomics.notify(words, SIGNAL)
}

/** Until something happened since `seen` was read from SIGNAL, or a while is over. */
export function awaitSignal({ words }: Slots, seen: number): void {
  Atomics.add(words, WAITING, 1)
  Atomics.wait(words, SIGNAL, seen, wakeUp)
  Atomics.sub(words, WAITING, 1)
}

export interface SlotContent {
  /** Bytes of tar. */
  readonly used: number
  /** Bytes of operations. */
  readonly operations: number
  readonly pieces: number
  /** Some pieces are not there before the operations are carried out. */
  readonly isBrought: boolean
}

/** The slot is full: others may begin with it. */
export function publish(slots: Slots, number: number, content: SlotContent): void {
  const { words } = slots
  const { head } = slots.slot(number)
  words[head + OPERATIONS] = content.operations
  words[head + PIECES] = content.pieces
  words[head + USED] = content.used
  words[head + BROUGHT] = content.isBrought ? 1 : 0
  const wanted = content.isBrought ? LATER : WANTED
  Atomics.store(words, head + DIGESTS, content.pieces > 0 ? wanted : DONE)
  Atomics.store(words, FILLED, number + 1)
  signal(slots)
}

/** All of its tar is there. */
export function isHashable(slots: Slots, number: number): boolean {
  const { words } = slots
  if (number >= Atomics.load(words, FILLED)) return false
  return words[slots.slot(number).head + BROUGHT] === 0 || Atomics.load(words, WRITTEN) > number
}

/** Nothing of it is needed any more. */
export function isDone(slots: Slots, number: number): boolean {
  const { words } = slots
  const { head } = slots.slot(number)
  return (
    Atomics.load(words, WRITTEN) > number &&
    Atomics.load(words, HASHED) > number &&
    Atomics.load(words, head + DIGESTS) === DONE
  )
}

/** Carries out the operations of one slot. */
export type Perform = (slots: Slots, slot: Slot) => void

/** Carries out the operations of one slot, if there is one that nobody has begun with. */
export function writeOnce(slots: Slots, perform: Perform): boolean {
  const { words } = slots
  const next = Atomics.load(words, WRITTEN)
  if (next >= Atomics.load(words, FILLED)) return false
  if (Atomics.compareExchange(words, WRITING, 0, 1) !== 0) return false
  const number = Atomics.load(words, WRITTEN)
  const isFilled = number < Atomics.load(words, FILLED)
  if (isFilled) {
    const slot = slots.slot(number)
    // What fails half-way stays as it is: nobody else may begin with it again.
    perform(slots, slot)
    Atomics.compareExchange(words, slot.head + DIGESTS, LATER, WANTED)
    Atomics.store(words, WRITTEN, number + 1)
  }
  Atomics.store(words, WRITING, 0)
  if (isFilled) signal(slots)
  return isFilled
}

/** Digests the pieces of one slot, if there is one that nobody has begun with. */
export function digestOnce(slots: Slots): boolean {
  const { words } = slots
  const filled = Atomics.load(words, FILLED)
  for (let number = Math.max(0, filled - slotCount); number < filled; number += 1) {
    const slot = slots.slot(number)
    if (Atomics.compareExchange(words, slot.head + DIGESTS, WANTED, CLAIMED) !== WANTED) continue
    const count = words[slot.head + PIECES] ?? 0
    for (let index = 0; index < count; index += 1) {
      const offset = slot.pieces[index * 2] ?? 0
      const length = slot.pieces[index * 2 + 1] ?? 0
      const digest = hash('sha256', slot.data.subarray(offset, offset + length), 'buffer')
      slot.digests.set(digest, index * digestBytes)
    }
    Atomics.store(words, slot.head + DIGESTS, DONE)
    signal(slots)
    return true
  }
  return false
}
