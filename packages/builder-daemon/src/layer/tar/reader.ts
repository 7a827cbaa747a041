import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { BLOCK, padding } from './entry.js'
import { decodeHeader, numeric, type RawHeader } from './header.js'
import {
  defaultLimits,
  type EntryDraft,
  type Extensions,
  mergeEntry,
  type ReadEntry,
  type SparseMap,
  type TarLimits,
} from './merge.js'

import { decodeRecords } from './pax.js'
import { checkedRuns, checkRunCount, leadingRuns, oldGnuRuns, type SparseRun } from './sparse.js'

/** Bytes in order: puts up to `length` at `offset` of `target`, returns their number, 0 at the end. */
export interface ByteSource {
  read(target: Buffer, offset: number, length: number): number
}

export type { ReadEntry } from './merge.js'

/**
 * Reads a tar as Go's archive/tar does, so that what other builders accept means the same here:
 * ustar, GNU (long names, base-256, old sparse), pax with sparse 0.0, 0.1 and 1.0. Global pax headers
 * are checked and ignored. A missing end mark at a block boundary is the end. Damage fails with
 * ISB_ARCHIVE_INVALID, size limits with ISB_LIMIT_EXCEEDED.
 */
export interface TarReader {
  /** The next entry, skipping what is left of the payload before; undefined at the end mark. */
  next(): ReadEntry | undefined
  /** Gives the rest of the current file's data with its place in the file; views valid during the call. */
  payload(each: (bytes: Buffer, fileOffset: number) => void): void
  /** Reads what follows the end mark, up to the end of the source. */
  drain(): void
  /** Bytes consumed so far. */
  readonly position: number
}

export interface TarReaderOptions {
  readonly limits?: TarLimits
  /** Gets every byte that is no data of a plain file or part of a sparse one, in order; views. */
  readonly onStructure?: (bytes: Buffer) => void
}

const BUFFER_BYTES = (1 << 20) + (1 << 16)
const MAX_SPECIALS = 64

export function createTarReader(source: ByteSource, options: TarReaderOptions = {}): TarReader {
  const limits = options.limits ?? defaultLimits
  const structure = options.onStructure
  const buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES)
  let start = 0
  let end = 0
  let consumed = 0
  let entries = 0
  let remaining = 0
  let pad = 0
  let ended = false
  let runs: readonly SparseRun[] | undefined
  let fileOffset = 0
  let run = 0

  /** Makes `count` bytes lie at `start`; gives how many do, fewer only at the end of the source. */
  function have(count: number): number {
    while (end - start < count) {
      if (buffer.length - start < count || start === end) {
        buffer.copyWithin(0, start, end)
        end -= start
        start = 0
      }
      const got = source.read(buffer, end, buffer.length - end)
      if (got === 0) break
      end += got
    }
    return Math.min(count, end - start)
  }
  function take(count: number): void {
    start += count
    consumed += count
  }
  function takeStructure(count: number): Buffer {
    if (have(count) < count) throw truncated()
    const view = buffer.subarray(start, start + count)
    structure?.(view)
    take(count)
    return view
  }
  function consumePayload(each: ((bytes: Buffer, offset: number) => void) | undefined): void {
    while (remaining > 0) {
      if (have(1) === 0) throw truncated()
      let count = Math.min(remaining, end - start)
      if (runs !== undefined) {
        const current = runs[run]
        if (current === undefined) throw new Error('a sparse map is shorter than its data')
        if (fileOffset < current.offset) fileOffset = current.offset
        count = Math.min(count, current.offset + current.length - fileOffset)
      }
      each?.(buffer.subarray(start, start + count), fileOffset)
      take(count)
      remaining -= count
      fileOffset += count
      const current = runs?.[run]
      if (current !== undefined && fileOffset === current.offset + current.length) run += 1
    }
  }
  function skipPayload(): void {
    consumePayload(undefined)
    if (pad > 0) takeStructure(pad)
    pad = 0
  }
  function special(header: RawHeader): Buffer {
    if (header.size > limits.pax) {
      throw new BuilderError('ISB_LIMIT_EXCEEDED', `an extended tar header has more than ${limits.pax} bytes`)
    }
    const body = Buffer.from(takeStructure(header.size))
    takeStructure(padding(header.size))
    return body
  }
  function oldSparse(at: number): { runs: SparseRun[]; size: number } {
    const found = oldGnuRuns(buffer, at + 386, 4)
    const size = numeric(buffer, at + 483, 12, 'size')
    let more = buffer[at + 482] !== 0
    while (more) {
      const block = takeStructure(BLOCK)
      found.push(...oldGnuRuns(block, 0, 21))
      checkRunCount(found.length)
      more = block[504] !== 0
    }
    return { runs: found, size }
  }
  function beginPayload(entry: EntryDraft, stored: number, map: SparseMap | undefined): ReadEntry {
    pad = padding(stored)
    remaining = stored
    fileOffset = 0
    run = 0
    if (map?.kind === 'leading') {
      const found = leadingRuns(() => {
        if (remaining < BLOCK) throw truncated()
        remaining -= BLOCK
        return takeStructure(BLOCK).toString('latin1')
      })
      runs = checkedRuns(found, entry.size, remaining)
    } else runs = map === undefined ? undefined : checkedRuns(map.runs, entry.size, remaining)
    entry.sparse = runs
    entry.payloadOffset = consumed
    entry.storedSize = remaining
    return entry
  }
  function nextHeader(): ReadEntry | undefined {
    const extensions: Extensions = { pax: [], longName: undefined, longLink: undefined }
    let specials = 0
    for (;;) {
      const got = have(BLOCK)
      if (got === 0) return undefined
      if (got < BLOCK) throw truncated()
      const header = decodeHeader(buffer, start)
      const at = start
      takeStructure(BLOCK)
      if (header === undefined) {
        if (have(1) === 0) return undefined
        if (have(BLOCK) < BLOCK) throw truncated()
        if (decodeHeader(buffer, start) !== undefined) {
          throw new BuilderError(
            'ISB_ARCHIVE_INVALID',
            'damaged tar: a single block of zeros between entries',
          )
        }
        takeStructure(BLOCK)
        return undefined
      }
      specials += 1
      if (specials > MAX_SPECIALS) {
        throw new BuilderError('ISB_ARCHIVE_INVALID', 'too many extended tar headers before one entry')
      }
      if (header.flag === 'x') extensions.pax = decodeRecords(special(header))
      else if (header.flag === 'g') decodeRecords(special(header))
      else if (header.flag === 'L') extensions.longName = textUntilNul(special(header))
      else if (header.flag === 'K') extensions.longLink = textUntilNul(special(header))
      else if (header.flag === 'V') special(header)
      else {
        entries += 1
        if (entries > limits.entries) {
          throw new BuilderError('ISB_LIMIT_EXCEEDED', `the tar has more than ${limits.entries} entries`)
        }
        const old = header.flag === 'S' ? oldSparse(at) : undefined
        const merged = mergeEntry(header, extensions, old, limits)
        return beginPayload(merged.entry, merged.stored, merged.map)
      }
    }
  }

  return {
    next() {
      if (ended) return undefined
      skipPayload()
      const entry = nextHeader()
      if (entry === undefined) ended = true
      return entry
    },
    payload: consumePayload,
    drain() {
      while (this.next() !== undefined) skipPayload()
      while (have(1) > 0) takeStructure(end - start)
    },
    get position() {
      return consumed
    },
  }
}

function textUntilNul(body: Buffer): string {
  const end = body.indexOf(0)
  return body.toString('latin1', 0, end < 0 ? body.length : end)
}

function truncated(): BuilderError {
  return new BuilderError('ISB_ARCHIVE_INVALID', 'the tar ends in the middle of an entry')
}
