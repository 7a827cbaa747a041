import { getHeapStatistics, setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

const mebibyte = 2 ** 20
/** Looking at the heap takes as long as a dozen system calls. */
const callsPerLook = 512
/**
 * The part of the limit that a job may fill. A list or map that grows takes as much as it has once more, at once: whoever
 * gets over the limit itself by much in one step ends the whole process.
 */
const usable = 0.6
/** Of the limit; so much is filled between two collections. */
const step = 0.1

/**
 * Whether a job of this thread needs more heap than it may have, `limit` MiB; to be called often. Fails with
 * ISB_LIMIT_EXCEEDED, early enough for the job to clean up.
 */
export function createHeapCheck(job: string, limit: number): () => void {
  const allowed = limit * mebibyte * usable
  let calls = 0
  let lookAgain = allowed
  return () => {
    calls = (calls + 1) % callsPerLook
    if (calls !== 0 || used() < lookAgain) return
    // A good part of it may be garbage.
    collect()
    const needed = used()
    if (needed >= allowed) throw tooMuch(job, limit)
    lookAgain = Math.max(allowed, needed + limit * mebibyte * step)
  }
}

export function tooMuch(job: string, limit: number): BuilderError {
  return new BuilderError(
    'ISB_LIMIT_EXCEEDED',
    `"${job}" of a layer needs more than ${limit} MiB of memory`,
    {
      hint: 'Divide what has so many files, such as an archive, among several steps or layers.',
    },
  )
}

function used(): number {
  return getHeapStatistics().used_heap_size
}

let collector: (() => void) | undefined

/** Without a collector the heap counts as it is. */
function collect(): void {
  collector ??= findCollector()
  collector?.()
}

/**
 * The collector has no name of its own for programs; a context that is made while the flag is set has it. The flag is
 * the process's: another thread may take it back in between, hence the attempts.
 */
function findCollector(): (() => void) | undefined {
  for (let attempt = 0; attempt < 10; attempt++) {
    setFlagsFromString('--expose-gc')
    const found: unknown = runInNewContext('typeof gc === "function" ? gc : undefined')
    setFlagsFromString('--no-expose-gc')
    if (typeof found === 'function') return () => void found()
  }
  return undefined
}
