import type { JobControl } from '../job-control.js'
import { CLOSED, SIGNAL } from './head.js'
import {
  attachSlots,
  awaitSignal,
  BUSY,
  digestOnce,
  FAILED,
  type Perform,
  type Slots,
  signal,
  writeOnce,
} from './slots.js'
import { helpTarSum } from './tar-sum.js'

/**
 * Works on the slots of another thread's job until that one closes them. What goes wrong is that job's failure: it is
 * left in the shared memory, not thrown here.
 */
export function helpWithSlots(memory: SharedArrayBuffer, perform: Perform, control: JobControl): void {
  const slots = attachSlots(memory)
  const { words } = slots
  for (;;) {
    control.check()
    const seen = Atomics.load(words, SIGNAL)
    let worked = false
    // Whoever closes waits until nobody is busy: from here on files of the job may be touched.
    Atomics.add(words, BUSY, 1)
    try {
      if (Atomics.load(words, CLOSED) !== 0 || Atomics.load(words, FAILED) !== 0) return
      worked = writeOnce(slots, perform) || helpTarSum(slots) || digestOnce(slots)
    } catch (error) {
      leaveFailure(slots, error)
      return
    } finally {
      Atomics.sub(words, BUSY, 1)
      if (Atomics.load(words, CLOSED) !== 0) signal(slots)
    }
    if (!worked) awaitSignal(slots, seen)
  }
}

interface Failure {
  readonly message: string
  readonly code: string | undefined
}

function leaveFailure(slots: Slots, error: unknown): void {
  const code =
    error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined
  const failure: Failure = { message: error instanceof Error ? error.message : String(error), code }
  let text = JSON.stringify(failure)
  if (Buffer.byteLength(text) > slots.failure.length) text = JSON.stringify({ message: code ?? '', code })
  const length = slots.failure.write(text, 'utf8')
  Atomics.store(slots.words, FAILED, length)
  signal(slots)
}

/** What a helper left, if it failed. */
export function failureOf({ words, failure }: Slots): Error | undefined {
  const length = Atomics.load(words, FAILED)
  if (length === 0) return undefined
  const { message, code } = JSON.parse(failure.toString('utf8', 0, length)) as Failure
  return Object.assign(new Error(message), code === undefined ? {} : { code })
}
