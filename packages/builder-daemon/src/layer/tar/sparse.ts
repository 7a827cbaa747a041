import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { numeric } from './header.js'
import { decimal } from './pax.js'

/** A run of data in a sparse file; everything else is holes. */
export interface SparseRun {
  readonly offset: number
  readonly length: number
}

/** GNU tar, "Storing Sparse Files": bounds what a header may make us keep. */
const MAX_RUNS = 65536

/** Collects and checks a sparse map: sorted, not overlapping, inside `size`, exactly `stored` bytes. */
export function checkedRuns(runs: readonly SparseRun[], size: number, stored: number): readonly SparseRun[] {
  let end = 0
  let sum = 0
  for (const { offset, length } of runs) {
    if (offset < end || offset + length > size || !Number.isSafeInteger(offset + length)) {
      throw invalid('its parts overlap or lie outside the file')
    }
    end = offset + length
    sum += length
  }
  if (sum !== stored) throw invalid('its parts are not as long as the data')
  return runs.filter((run) => run.length > 0)
}

/** The map in an old GNU header (four runs at 386) or extension block (21 runs at 0). */
export function oldGnuRuns(block: Buffer, at: number, count: number): SparseRun[] {
  const runs: SparseRun[] = []
  for (let index = 0; index < count; index += 1) {
    const place = at + index * 24
    if (block[place] === 0) break
    const offset = numeric(block, place, 12, 'sparse offset')
    const length = numeric(block, place + 12, 12, 'sparse length')
    if (offset < 0 || length < 0) throw invalid('a number is negative')
    runs.push({ offset, length })
  }
  return runs
}

/** Version 0.1 (`GNU.sparse.map`) and 0.0 (repeated offset and numbytes, joined the same way). */
export function pairedRuns(numbers: readonly string[]): SparseRun[] {
  if (numbers.length % 2 !== 0) throw invalid('a number is missing')
  if (numbers.length > 2 * MAX_RUNS) throw tooMany()
  const runs: SparseRun[] = []
  for (let index = 0; index < numbers.length; index += 2) {
    const offset = decimal(numbers[index] ?? '')
    const length = decimal(numbers[index + 1] ?? '')
    if (offset === undefined || length === undefined) throw invalid('a number is missing')
    runs.push({ offset, length })
  }
  return runs
}

/** Version 1.0: lines of numbers at the start of the data, in whole blocks given by `nextBlock`. */
export function leadingRuns(nextBlock: () => string): SparseRun[] {
  let text = ''
  let at = 0
  const nextNumber = (): string => {
    for (;;) {
      const end = text.indexOf('\n', at)
      if (end >= 0) {
        const number = text.slice(at, end)
        at = end + 1
        return number
      }
      if (text.length - at > 32) throw invalid('a number is too long')
      text = text.slice(at) + nextBlock()
      at = 0
    }
  }
  const count = decimal(nextNumber())
  if (count === undefined) throw invalid('the number of parts is missing')
  if (count > MAX_RUNS) throw tooMany()
  const numbers: string[] = []
  for (let index = 0; index < count * 2; index += 1) numbers.push(nextNumber())
  return pairedRuns(numbers)
}

export function tooMany(): BuilderError {
  return new BuilderError('ISB_LIMIT_EXCEEDED', `a sparse file has more than ${MAX_RUNS} parts`)
}

export function checkRunCount(count: number): void {
  if (count > MAX_RUNS) throw tooMany()
}

function invalid(reason: string): BuilderError {
  return new BuilderError('ISB_ARCHIVE_INVALID', `damaged sparse file in the tar: ${reason}`)
}
