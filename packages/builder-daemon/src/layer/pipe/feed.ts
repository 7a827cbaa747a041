import { BuilderError, type ErrorDetails, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { ErrorCode } from '@isula-build/shared/errors/codes.js'
import type { DiffId } from '@isula-build/shared/oci/digest.js'
import type { JobControl } from '../job-control.js'
import type { FeedParams, StoredTar } from '../stored-tar.js'
import { openUnpackedTar, type UnpackedTar } from '../unpacked-tar.js'
import { CLOSED, LOST, SIGNAL } from './head.js'

/**
 * A tar that another thread reads, decompresses and hashes, in shared memory. The job begins alone; once the other thread
 * is there, the job says how far it is and takes what follows from slots that the other one, which begins from the start
 * again, fills. Without that thread the job gets to its end alone.
 *
 * Words after those of `head`; POSITION takes two.
 */
/** Which job the memory is used for: a thread may come when the one it was asked for is over. */
const JOB = 3
const BUSY = 4
/** 0 until the other thread is READY. */
const STATE = 5
const POSITION = 6
const FILLED = 8
const TAKEN = 9
/** Whoever takes wants no more, only the digests. */
const UNWANTED = 10
/** Bytes of the failure's text. */
const FAILED = 11
const ENDED = 12
const LENGTHS = 16

const READY = 1
const HANDED = 2

const slotCount = 8
const slotBytes = 1 << 18
const headBytes = 4096
const textBytes = 4096
const memoryBytes = headBytes + textBytes + slotCount * slotBytes
/** Smaller ones are done before anybody has come, bytes as stored. */
const worthHelp = 4 << 20
/** From here on it is too late to begin again, bytes of tar. */
const handOverUntil = 48 << 20
/** An abort or a lost thread is noticed so soon, milliseconds. */
const wakeUp = 50

interface Feed {
  readonly words: Int32Array
  readonly text: Buffer
  slot(number: number): Buffer
}

function attach(memory: SharedArrayBuffer): Feed {
  return {
    words: new Int32Array(memory, 0, headBytes / 4),
    text: Buffer.from(memory, headBytes, textBytes),
    slot: (number) =>
      Buffer.from(memory, headBytes + textBytes + (number % slotCount) * slotBytes, slotBytes),
  }
}

function signal(words: Int32Array): void {
  Atomics.add(words, SIGNAL, 1)
  Atomics.notify(words, SIGNAL)
}

let idle: SharedArrayBuffer | undefined

/** Like `openUnpackedTar`, with the help of another thread where there is one and the tar is big enough. */
export function openHelpedTar(stored: StoredTar, control: JobControl): UnpackedTar {
  const own = openUnpackedTar(stored, control)
  const { help } = control
  if (help === undefined || stored.range === undefined || stored.range.length < worthHelp) return own
  const memory = idle ?? new SharedArrayBuffer(memoryBytes)
  idle = undefined
  const { words, text, slot } = attach(memory)
  const job = Atomics.load(words, JOB) + 1
  for (let index = 0; index < LENGTHS; index += 1) if (index !== BUSY) Atomics.store(words, index, 0)
  Atomics.store(words, JOB, job)
  help(memory, { job, stored })

  let isOwn = true
  let position = 0
  let at = 0

  function waitUntil(ready: () => boolean): void {
    for (;;) {
      const seen = Atomics.load(words, SIGNAL)
      control.check()
      if (Atomics.load(words, LOST) !== 0) throw new Error('a thread that helped with a layer died')
      const failed = Atomics.load(words, FAILED)
      if (failed !== 0) throw decodeFailure(text.toString('utf8', 0, failed))
      if (ready()) return
      Atomics.wait(words, SIGNAL, seen, wakeUp)
    }
  }
  function handOver(): void {
    isOwn = false
    new Float64Array(memory, POSITION * 4, 1)[0] = position
    Atomics.store(words, STATE, HANDED)
    signal(words)
    own.close()
  }
  function take(target: Buffer, offset: number, length: number): number {
    const taken = Atomics.load(words, TAKEN)
    waitUntil(() => Atomics.load(words, FILLED) > taken || Atomics.load(words, ENDED) !== 0)
    if (Atomics.load(words, FILLED) === taken) return 0
    const filled = words[LENGTHS + (taken % slotCount)] ?? 0
    const count = slot(taken).copy(target, offset, at, Math.min(filled, at + length))
    at += count
    if (at === filled) {
      at = 0
      Atomics.store(words, TAKEN, taken + 1)
      signal(words)
    }
    return count
  }
  function end(): void {
    Atomics.store(words, UNWANTED, 1)
    signal(words)
    waitUntil(() => Atomics.load(words, ENDED) !== 0)
  }

  return {
    compression: own.compression,
    read(target, offset, length) {
      if (isOwn && Atomics.load(words, STATE) === READY && position <= handOverUntil) handOver()
      const count = isOwn ? own.read(target, offset, length) : take(target, offset, length)
      position += count
      return count
    },
    diffId() {
      if (isOwn) return own.diffId()
      end()
      return text.toString('latin1', 0, Atomics.load(words, ENDED)) as DiffId
    },
    checkStored() {
      if (isOwn) own.checkStored()
      else end()
    },
    close() {
      if (isOwn) own.close()
      Atomics.store(words, CLOSED, 1)
      signal(words)
      // What the other thread reads may be closed by whoever waits for this job.
      for (;;) {
        const seen = Atomics.load(words, SIGNAL)
        const lost = Atomics.load(words, LOST)
        if (Atomics.load(words, BUSY) <= lost) {
          if (lost === 0) idle = memory
          return
        }
        Atomics.wait(words, SIGNAL, seen, wakeUp)
      }
    },
  }
}

/** The other thread's part. What goes wrong is the job's failure: it is left in the memory, not thrown here. */
export function feed(memory: SharedArrayBuffer, { job, stored }: FeedParams, control: JobControl): void {
  const { words, text, slot } = attach(memory)
  const isOver = (): boolean => Atomics.load(words, CLOSED) !== 0 || Atomics.load(words, JOB) !== job
  function waitUntil(ready: () => boolean): boolean {
    for (;;) {
      const seen = Atomics.load(words, SIGNAL)
      control.check()
      if (isOver()) return false
      if (ready()) return true
      Atomics.wait(words, SIGNAL, seen, wakeUp)
    }
  }
  function fill(tar: UnpackedTar, target: Buffer, wanted: number): number {
    let filled = 0
    while (filled < wanted) {
      const count = tar.read(target, filled, wanted - filled)
      if (count === 0) break
      filled += count
    }
    return filled
  }
  function work(tar: UnpackedTar): void {
    const skipped = slot(0)
    for (let left = new Float64Array(memory, POSITION * 4, 1)[0] ?? 0; left > 0; ) {
      if (isOver()) return
      const count = fill(tar, skipped, Math.min(left, skipped.length))
      if (count === 0) throw new Error('what was read before has become shorter')
      left -= count
    }
    const hasRoom = (): boolean =>
      Atomics.load(words, FILLED) - Atomics.load(words, TAKEN) < slotCount ||
      Atomics.load(words, UNWANTED) !== 0
    for (let number = 0; ; number += 1) {
      if (!waitUntil(hasRoom)) return
      const count = fill(tar, slot(number), slotBytes)
      if (count === 0) break
      words[LENGTHS + (number % slotCount)] = count
      Atomics.store(words, FILLED, number + 1)
      signal(words)
    }
    tar.checkStored()
    Atomics.store(words, ENDED, text.write(tar.diffId(), 'latin1'))
    signal(words)
  }

  Atomics.add(words, BUSY, 1)
  try {
    if (isOver()) return
    Atomics.store(words, STATE, READY)
    if (!waitUntil(() => Atomics.load(words, STATE) === HANDED)) return
    const tar = openUnpackedTar(stored, control)
    try {
      work(tar)
    } catch (error) {
      if (isBuilderError(error) && !['ISB_CANCELLED', 'ISB_DIGEST_MISMATCH'].includes(error.code))
        tar.checkStored()
      throw error
    } finally {
      tar.close()
    }
  } catch (error) {
    Atomics.store(words, FAILED, writeFailure(text, error))
  } finally {
    Atomics.sub(words, BUSY, 1)
    signal(words)
  }
}

interface Failure {
  readonly code: ErrorCode | undefined
  readonly errno: string | undefined
  readonly message: string
  readonly hint: ErrorDetails['hint']
}

function writeFailure(text: Buffer, error: unknown): number {
  const known = isBuilderError(error) ? error : undefined
  const errno =
    known === undefined && error instanceof Error && 'code' in error && typeof error.code === 'string'
      ? error.code
      : undefined
  const message = error instanceof Error ? error.message : String(error)
  const failure: Failure = {
    ...{ code: known?.code, errno, hint: known?.details.hint },
    message: message.slice(0, textBytes / 8),
  }
  const encoded = JSON.stringify(failure)
  const short = JSON.stringify({
    ...failure,
    message: failure.code ?? 'reading a layer failed',
    hint: undefined,
  })
  return text.write(Buffer.byteLength(encoded) > textBytes ? short : encoded, 'utf8')
}

function decodeFailure(encoded: string): Error {
  const { code, errno, message, hint } = JSON.parse(encoded) as Failure
  if (code !== undefined) return new BuilderError(code, message, hint === undefined ? {} : { hint })
  return Object.assign(new Error(message), errno === undefined ? {} : { code: errno })
}
