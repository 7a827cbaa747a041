import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import type { ExplainSourcesParams, SourceChanges } from '../../ports/layer-worker.js'
import type { FileStamp } from '../../system/file-stat.js'
import type { ContentRecord } from './content-log.js'
import { comparePaths, createRowFile, headerSize, openRowFile, type RowFile } from './row-file.js'

/**
 * What a COPY took, as a file beside its layer: a later build compares, to say what changed. Missing or torn it is
 * no loss but of that.
 */
export interface SourcesLog extends Disposable {
  /** Best in the order of the sources; `digest` of a file's content, `stamp` of the file as it is in the layer. */
  add(record: ContentRecord, digest: Buffer | undefined, stamp: FileStamp | undefined): void
  /** Puts the log in its place; without that nothing is left of it. `layer` is what came of the copy. */
  commit(layer: WrittenLayer): void
}

export interface WrittenLayer {
  /** Names in it that are further ones of a file of which the layer has another. */
  readonly hardLinks: number
}

/** Name of the file beside the `diff` of a layer. */
export const sourcesLogName = 'sources'

const identity = createHash('sha256').update('isula-build sources log 2').digest()
const types = ['file', 'directory', 'symlink', 'character', 'block', 'fifo', 'socket']

// Row: what it holds (16 bytes), type, flags, mode, uid, gid, attributes (8 bytes). Then what became of it in the layer:
// size and seconds (8 bytes each), nanoseconds, uid, gid, mode.
const contentSize = 16
const sourceSize = contentSize + 12 + 8
const rowSize = sourceSize + 32
const LINKED = 1
// Of the header: how many rows there are, and whether every file of the layer has one name in it.
const countAt = 0
const singleAt = 8
const none = Buffer.alloc(32)

export function createSourcesLog(file: string): SourcesLog {
  const rows = createRowFile(file, identity)
  const bytes = Buffer.alloc(rowSize)
  let count = 0
  return {
    add(record, digest, stamp) {
      const { entry, keepsOwner } = record
      contentOf(record, digest).copy(bytes, 0, 0, contentSize)
      bytes[16] = types.indexOf(entry.type)
      bytes[17] = record.source?.inode === undefined ? 0 : LINKED
      bytes.writeUInt16LE(entry.type === 'symlink' ? 0 : entry.mode, 18)
      bytes.writeUInt32LE(keepsOwner ? entry.uid : 0, 20)
      bytes.writeUInt32LE(keepsOwner ? entry.gid : 0, 24)
      const attributes = entry.xattrs.length === 0 ? none : sumOf(entry.xattrs)
      attributes.copy(bytes, 28, 0, 8)
      if (stamp === undefined) bytes.fill(0, sourceSize)
      else putStamp(bytes, stamp)
      rows.add(rowPath(record.path), bytes)
      count += 1
    },
    commit({ hardLinks }) {
      const header = Buffer.alloc(headerSize)
      header.writeDoubleLE(count, countAt)
      header[singleAt] = hardLinks === 0 ? 1 : 0
      rows.commit(header)
    },
    [Symbol.dispose]: () => rows[Symbol.dispose](),
  }
}

function putStamp(bytes: Buffer, stamp: FileStamp): void {
  bytes.writeDoubleLE(stamp.size, sourceSize)
  bytes.writeDoubleLE(stamp.seconds, sourceSize + 8)
  bytes.writeUInt32LE(stamp.nanoseconds, sourceSize + 16)
  bytes.writeUInt32LE(stamp.uid, sourceSize + 20)
  bytes.writeUInt32LE(stamp.gid, sourceSize + 24)
  // One more than it is: what was not written is zero.
  bytes.writeUInt32LE(stamp.mode + 1, sourceSize + 28)
}

function contentOf({ entry, hardLink }: ContentRecord, digest: Buffer | undefined): Buffer {
  if (hardLink !== undefined) return sumOf([hardLink, digest?.toString('hex')])
  if (entry.type === 'symlink') return sumOf(entry.link)
  if (entry.type === 'character' || entry.type === 'block') return sumOf([entry.rdevMajor, entry.rdevMinor])
  return digest ?? none
}

function sumOf(value: unknown): Buffer {
  return createHash('sha256').update(JSON.stringify(value)).digest()
}

/** Sorts as the inputs of an instruction come: `9:` before `10:`. */
export function rowPath(recordPath: string): string {
  return String.fromCharCode(0x60 + recordPath.indexOf(':')) + recordPath
}

/** A log that is read in the order of its rows, as far as it can be believed. */
export interface SourcesLogRows extends Disposable {
  /** As `rowPath` gives it. */
  readonly next: string | undefined
  /**
   * First bytes of the content digest of the file in this row, if it had one name and no attributes and was written to
   * the layer with this stamp.
   */
  plainContent(stamp: FileStamp): Buffer | undefined
  advance(): void
}

export function openSourcesLog(file: string): SourcesLogRows | undefined {
  const rows = openRowFile(file, identity)
  if (rows === undefined) return undefined
  const wanted = Buffer.alloc(rowSize)
  return {
    get next() {
      return rows.next
    },
    plainContent(stamp) {
      const bytes = rows.bytes()
      const isPlain = bytes[16] === types.indexOf('file') && bytes[17] === 0
      if (!isPlain || bytes.compare(none, 0, 8, 28, sourceSize) !== 0) return undefined
      putStamp(wanted, stamp)
      return bytes.compare(wanted, sourceSize, rowSize, sourceSize, rowSize) === 0
        ? bytes.subarray(0, contentSize)
        : undefined
    },
    advance: () => rows.advance(),
    [Symbol.dispose]: () => rows[Symbol.dispose](),
  }
}

/**
 * Whether a log in `directory` says that no two names in the layer beside it are one file, however many names the
 * files have elsewhere.
 */
export function hasSingleNames(directory: string): boolean {
  using rows = openRowFile(join(directory, sourcesLogName), identity)
  return rows?.header[singleAt] === 1
}

/** As the user knows it. */
function shownPath(path: string): string {
  const named = path.slice(path.indexOf(':') + 1)
  return textOfBytes(named.replace(/^(inline|download):|^\//, '')) || '.'
}

/** How many paths of a kind are named. */
const shownPaths = 5

/** Compares two logs; undefined where one is missing or torn: then nobody knows. */
export function explainSourcesJob({ before, after }: ExplainSourcesParams): SourceChanges | undefined {
  using old = openRowFile(before, identity)
  using now = openRowFile(after, identity)
  if (old === undefined || now === undefined) return undefined
  const files = createSample(shownPaths)
  const modes = createSample(shownPaths)
  const counts = { old: 0, now: 0 }
  for (;;) {
    const order = orderOf(old, now)
    if (order === undefined) break
    if (order === 0) {
      const [was, is] = [old.bytes(), now.bytes()]
      // Content and type first, then what may be changed alone.
      if (was.compare(is, 0, 17, 0, 17) !== 0) files.add(old.next)
      else if (was.compare(is, 18, sourceSize, 18, sourceSize) !== 0) modes.add(old.next)
    } else files.add(order < 0 ? old.next : now.next)
    if (order <= 0) counts.old += advance(old)
    if (order >= 0) counts.now += advance(now)
  }
  const isWhole =
    old.header.readDoubleLE(countAt) === counts.old && now.header.readDoubleLE(countAt) === counts.now
  if (!isWhole) return undefined
  return { files: files.shown(), moreFiles: files.more(), modes: modes.shown(), moreModes: modes.more() }
}

function advance(rows: RowFile): number {
  rows.advance()
  return 1
}

function orderOf(a: RowFile, b: RowFile): number | undefined {
  if (a.next === undefined) return b.next === undefined ? undefined : 1
  return b.next === undefined ? -1 : comparePaths(a.next, b.next)
}

function createSample(size: number) {
  const paths: string[] = []
  let count = 0
  return {
    add(path: string | undefined): void {
      count += 1
      if (path !== undefined && paths.length < size) paths.push(shownPath(path))
    },
    shown: () => paths.sort(),
    more: () => count - paths.length,
  }
}
