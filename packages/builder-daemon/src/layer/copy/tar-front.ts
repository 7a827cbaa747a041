import { closeSync, readSync } from 'node:fs'
import type { Pipeline } from '../pipe/pipeline.js'
import { BLOCK, type TarEntry } from '../tar/entry.js'
import { createTarWriterOn, type TarSummary } from '../tar/writer.js'
import { DamagedReuseError } from './reuse-errors.js'
import { createEntrySum, type TarMark } from './tar-marks.js'

/**
 * Where the entries of a layer's tar go in. As long as they are those that the tar of an earlier layer begins with,
 * nothing is read nor hashed: what the hash was after so many entries stands in the marks of that layer, found again by a
 * digest over everything these entries say and hold.
 */
export interface TarFront {
  /**
   * The next entry; `settle` gets the content digest where `content` is a size, in the order of entries. True when its
   * content is known, so nothing of it may be put into the pipeline: only for what is `kept` or has none.
   */
  put(entry: TarEntry, content: number | 'none', settle: Settle, kept?: Kept): boolean
  /** All content of the entry that was put in last came to its place. */
  placed(size: number): void
  finish(): MarkedTar
}

type Settle = (digest: Buffer | undefined) => void

export interface MarkedTar extends TarSummary {
  readonly marks: readonly TarMark[]
}

/** A file that an earlier layer has, too. */
export interface Kept {
  /** Of its content. */
  readonly digest: Buffer
  /** For reading it after all. */
  open(): number
}

interface Passed {
  readonly entry: TarEntry
  readonly content: number | 'none'
  readonly kept: Kept | undefined
}

/** A mark comes after so many bytes or entries: what is passed by in vain is read and hashed at most once, and is not much. */
const markBytes = 3 << 18
const markEntries = 256

/** `known` are the marks of an earlier tar that may begin in the same way. */
export function createTarFront(pipeline: Pipeline, known: readonly TarMark[], check: () => void): TarFront {
  const tar = createTarWriterOn(pipeline.collector)
  const sum = createEntrySum()
  const marks: TarMark[] = []
  let isKnown = known.length > 0
  /** Entries since the last mark, while they may be known. */
  let passed: Passed[] = []
  let leftOut = 0
  let entries = 0
  let bytes = 0

  function mark(): void {
    entries = 0
    bytes = 0
    const found = known[marks.length]
    if (isKnown && found?.entries.equals(sum.cut()) === true) {
      marks.push(found)
      leftOut += passed.length
      passed = []
      return
    }
    if (isKnown) leave()
    pipeline.mark((state) => {
      const digest = sum.cut()
      if (state !== undefined) marks.push({ ...state, entries: digest })
    })
  }

  /** From here on everything is hashed, beginning after the last mark that was met. */
  function leave(): void {
    isKnown = false
    const last = marks.at(-1)
    sum.restart(last?.entries)
    if (last !== undefined) pipeline.resume(last)
    const again = passed
    passed = []
    for (const { entry, content, kept } of again) {
      insert(entry, content, (digest) => {
        if (kept !== undefined && digest?.equals(kept.digest) !== true)
          throw new DamagedReuseError(entry.path)
      })
      if (kept === undefined) continue
      readKept(pipeline, kept, entry, check)
      tar.placed(entry.size)
    }
  }

  function insert(entry: TarEntry, content: number | 'none', settle: Settle): void {
    tar.entry(entry)
    pipeline.log(content, (digest) => {
      sum.add(entry, digest)
      settle(digest)
    })
  }

  return {
    put(entry, content, settle, kept) {
      if (bytes >= markBytes || entries >= markEntries) mark()
      const isPassed = isKnown && (kept !== undefined || entry.size === 0)
      if (isKnown && !isPassed) leave()
      entries += 1
      bytes += BLOCK + entry.size
      if (!isPassed) {
        insert(entry, content, settle)
        return false
      }
      passed.push({ entry, content, kept })
      sum.add(entry, kept?.digest)
      pipeline.log(content === 0 ? 0 : 'none', (digest) => settle(kept?.digest ?? digest))
      return true
    },
    placed: (size) => tar.placed(size),
    finish() {
      if (isKnown) leave()
      const summary = tar.finish()
      return { ...summary, entries: leftOut + summary.entries, marks }
    },
  }
}

/** Reads a file of the earlier layer for the tar. */
export function readKept(pipeline: Pipeline, kept: Kept, { path, size }: TarEntry, check: () => void): void {
  const fd = kept.open()
  try {
    const read = (target: Buffer, offset: number, length: number): number => {
      check()
      return readSync(fd, target, offset, length, null)
    }
    if (!pipeline.content(size, read, () => undefined)) throw new DamagedReuseError(path)
  } finally {
    closeSync(fd)
  }
}
