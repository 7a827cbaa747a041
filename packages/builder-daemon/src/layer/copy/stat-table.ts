import { comparePaths, createRowFile, headerSize, openRowFile, type RowIdentity } from './row-file.js'
import type { SourceEntry } from './source-reader.js'

/** What is known of a file that did not change since it was read. */
export interface StatRow {
  readonly digest: Buffer | undefined
  readonly xattrs: SourceEntry['xattrs']
}

/** The content key of all that one COPY takes, by one digest of everything stat tells of it (see `scanSource`). */
export interface KnownState {
  /** 32 bytes. */
  readonly state: Buffer
  readonly contentKey: string
}

/** Digests of files by everything that stat tells of them, in the order in which a COPY walks them. */
export interface StatTable extends Disposable {
  readonly known: KnownState | undefined
  /**
   * What is known of the file at a path, when it still is the one it was. Paths are asked for in the order of
   * `comparePaths`; what lies between two of them is passed over.
   */
  row(path: string, entry: SourceEntry): StatRow | undefined
}

export interface StatTableWriter extends Disposable {
  /** Best in the order of `comparePaths`. */
  add(path: string, entry: SourceEntry, row: StatRow): void
  /** Puts the table in its place; without that nothing is left of it. */
  commit(known: KnownState | undefined): void
}

const keyPrefix = 'sha256:'
const noKey = Buffer.alloc(32)
const stampSize = 56
/** Stamp, length of the digest; then the digest, and the attributes as JSON. */
const rowHead = stampSize + 1

const stampMemory = new ArrayBuffer(stampSize)
const stamp = Buffer.from(stampMemory)
const stampWords = new Uint32Array(stampMemory)
const stampNumbers = new Float64Array(stampMemory)
const stampTimes = new BigInt64Array(stampMemory)
const stampIdentities = new BigUint64Array(stampMemory)
/** What the stamp is of: it is asked for again when a row that was found is put down again. */
let stamped: SourceEntry | undefined
const types: readonly SourceEntry['type'][] = [
  'file',
  'directory',
  'symlink',
  'character',
  'block',
  'fifo',
  'socket',
]

/** Everything that stat tells of a file and that cannot stay the same when it changes; valid until the next call. */
export function stampOf(entry: SourceEntry): Buffer {
  if (entry === stamped) return stamp
  stamped = entry
  stampWords[0] = entry.mode | (types.indexOf(entry.type) << 16)
  stampWords[1] = entry.uid
  stampWords[2] = entry.gid
  stampWords[3] = entry.nlink
  stampNumbers[2] = entry.size
  stampTimes[3] = entry.mtimeNs
  stampTimes[4] = entry.ctimeNs
  stampIdentities[5] = entry.ino
  stampIdentities[6] = entry.dev
  return stamp
}

/** undefined when there is no table of this identity. */
export function openStatTable(file: string, identity: RowIdentity): StatTable | undefined {
  const rows = openRowFile(file, identity)
  if (rows === undefined) return undefined
  const state = rows.header.subarray(0, 32)
  const key = rows.header.subarray(32)
  return {
    known: key.equals(noKey) ? undefined : { state, contentKey: keyPrefix + key.toString('hex') },
    row(path, entry) {
      for (;;) {
        const order = rows.next === undefined ? 1 : comparePaths(rows.next, path)
        if (order > 0) return undefined
        const found = order === 0 ? decodeRow(rows.bytes(), entry) : undefined
        rows.advance()
        if (order === 0) return found
      }
    },
    [Symbol.dispose]: () => rows[Symbol.dispose](),
  }
}

function decodeRow(bytes: Buffer, entry: SourceEntry): StatRow | undefined {
  if (stampOf(entry).compare(bytes, 0, stampSize) !== 0) return undefined
  const end = rowHead + (bytes[stampSize] ?? 0)
  return {
    digest: end === rowHead ? undefined : bytes.subarray(rowHead, end),
    xattrs: end === bytes.length ? [] : (JSON.parse(bytes.toString('latin1', end)) as StatRow['xattrs']),
  }
}

/** `file` is replaced by `commit`. */
export function createStatTable(file: string, identity: RowIdentity): StatTableWriter {
  const rows = createRowFile(file, identity)
  const usual = Buffer.alloc(rowHead + 32)
  return {
    add(path, entry, { digest, xattrs }) {
      const json = xattrs.length === 0 ? '' : JSON.stringify(xattrs)
      const length = rowHead + (digest?.length ?? 0) + json.length
      const bytes = length <= usual.length ? usual : Buffer.alloc(length)
      stampOf(entry).copy(bytes)
      bytes[stampSize] = digest?.length ?? 0
      digest?.copy(bytes, rowHead)
      bytes.write(json, length - json.length, 'latin1')
      rows.add(path, bytes.subarray(0, length))
    },
    commit(known) {
      const header = Buffer.alloc(headerSize)
      known?.state.copy(header)
      if (known !== undefined) header.write(known.contentKey.slice(keyPrefix.length), 32, 'hex')
      rows.commit(header)
    },
    [Symbol.dispose]: () => rows[Symbol.dispose](),
  }
}
