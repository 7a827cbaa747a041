import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { SeenSources } from '../../ports/layer-worker.js'
import type { FileStat } from '../../system/file-stat.js'
import { entriesOf, indexTree, type ScannedDirectory } from '../../system/tree-records.js'
import { entryOf } from './direct-reader.js'
import { joinPath, type SourceEntry, type SourceReader, type TreeRecorder } from './source-reader.js'

/** What scans of all sources of one COPY saw, for the walks that follow: nothing of it is looked at twice. */
export interface Seen {
  readonly memory: Omit<SeenSources, 'contentKey' | 'matches'>
  /** undefined for a directory that no scan looked into. */
  list(input: number, path: string): readonly SeenEntry[] | undefined
  /** Says what is known of a listed entry, true as long as stat says of it what it said to the scan. */
  note(entry: SourceEntry, digest: Buffer | undefined): void
}

interface SeenEntry {
  readonly name: string
  readonly number: number
  readonly stat: FileStat
  /** Nothing more need be asked about it: it has no attributes. */
  readonly isPlain: boolean
  readonly digest: Buffer | undefined
}

/** The sources are no longer what the scan saw. */
export class StaleSourcesError extends Error {
  override readonly name = 'StaleSourcesError'
}

/** The sources changed after they were seen, which is nobody's fault. */
export function isStale(error: unknown): boolean {
  return error instanceof StaleSourcesError || isBuilderError(error, 'ISB_CONTEXT_CHANGED')
}

/** Names a match among those of the instruction: see `SeenSources.matches`. */
export function matchName({ key, path }: { readonly key: string; readonly path: string }): string {
  return `${key}\0${path}`
}

/** What may be copied under the content key of what was seen: the same matches, each time it is called the next. */
export function expectMatches({ matches }: Pick<SeenSources, 'matches'>) {
  let next = 0
  const expect = (name: string | undefined): void => {
    if (matches[next] !== name) throw new StaleSourcesError(name)
    next += 1
  }
  return {
    match: (source: { readonly key: string; readonly path: string; readonly entry: SourceEntry }) =>
      expect(source.entry.type === 'directory' ? matchName(source) : undefined),
    end: () => expect(undefined),
  }
}

/** Bytes that are kept of what was seen: about 90,000 files. Of more nothing is. */
const sizeLimit = 16 << 20

const PLAIN = 1
const DIGEST = 2
const digestBytes = 32
const noteBytes = 1 + digestBytes

export interface SeenRecorder {
  /** Gets the records of one input. */
  input(number: number): TreeRecorder
  /** undefined when it was too much, or a directory was looked into twice, perhaps with other eyes. */
  finish(): Seen | undefined
}

export function createSeenRecorder(): SeenRecorder {
  const chunks: Buffer[] = []
  const tops: { input: number; path: string; at: number }[] = []
  let size = 0
  return {
    input: (input) => ({
      begin: (path) => void tops.push({ input, path, at: size }),
      bytes(chunk) {
        size += chunk.length
        if (size <= sizeLimit) chunks.push(Buffer.from(chunk))
        else chunks.length = 0
      },
    }),
    finish() {
      if (size > sizeLimit || isAmbiguous(tops)) return undefined
      const records = new SharedArrayBuffer(size)
      let at = 0
      for (const chunk of chunks) at += chunk.copy(Buffer.from(records), at)
      return openSeen({ records, notes: undefined, tops })
    },
  }
}

function isAmbiguous(tops: SeenSources['tops']): boolean {
  const paths = new Set(tops.map(({ input, path }) => `${input}:${path}`))
  if (paths.size < tops.length) return true
  return tops.some(({ input, path }) => {
    for (let at = path.length; at > 0; ) {
      at = Math.max(path.lastIndexOf('/', at - 1), 0)
      if (paths.has(`${input}:${path.slice(0, at)}`)) return true
    }
    return false
  })
}

/** Without `notes` nothing is known yet but what was seen. */
export function openSeen({
  records,
  notes,
  tops,
}: Pick<SeenSources, 'records' | 'tops'> & { readonly notes: SharedArrayBuffer | undefined }): Seen {
  const bytes = Buffer.from(records)
  const directories = new Map<string, ScannedDirectory & { readonly records: Buffer }>()
  let entries = 0
  for (const { input, path, at } of tops) {
    const tree = bytes.subarray(at)
    const index = indexTree(tree, entries)
    entries += index.entries
    for (const [below, directory] of index.directories) {
      directories.set(`${input}:${joinPath(path, below)}`, { ...directory, records: tree })
    }
  }
  const shared = notes ?? new SharedArrayBuffer(entries * noteBytes)
  const noted = Buffer.from(shared)
  return {
    memory: { records, notes: shared, tops },
    list(input, path) {
      const directory = directories.get(`${input}:${path}`)
      if (directory === undefined) return undefined
      return entriesOf(directory.records, directory)
        .sort((a, b) => (a.name < b.name ? -1 : 1))
        .map(({ name, number, stat }) => {
          const at = number * noteBytes
          const flags = noted[at] ?? 0
          const digest = (flags & DIGEST) === 0 ? undefined : noted.subarray(at + 1, at + noteBytes)
          return { name, number, stat, isPlain: (flags & PLAIN) !== 0, digest }
        })
    },
    note({ seen, xattrs }, digest) {
      if (seen === undefined) return
      const at = seen * noteBytes
      noted[at] = (xattrs.length === 0 ? PLAIN : 0) | (digest === undefined ? 0 : DIGEST)
      digest?.copy(noted, at + 1)
    },
  }
}

const noXattrs: SourceEntry['xattrs'] = []

/** Lists what was seen. `bare` lists leave out the attributes of what they are not known of. */
export function createSeenReader(
  reader: SourceReader,
  { seen, input, bare }: { readonly seen: Seen; readonly input: number; readonly bare: boolean },
): SourceReader {
  function entryAt(path: string, { name, number, stat, isPlain, digest }: SeenEntry): SourceEntry {
    if (stat.type !== 'symlink' && (isPlain || bare)) {
      return entryOf(name, stat, { link: '', xattrs: noXattrs, seen: number, digest })
    }
    const now = reader.stat(joinPath(path, name))
    if (now === undefined || !isSame(now, stat)) throw new StaleSourcesError(path)
    return { ...now, seen: number, digest }
  }
  return {
    ...reader,
    list: (path) => seen.list(input, path)?.map((entry) => entryAt(path, entry)) ?? reader.list(path),
  }
}

function isSame(a: FileStat | SourceEntry, b: FileStat): boolean {
  return (
    a.type === b.type &&
    a.ctimeNs === b.ctimeNs &&
    a.mtimeNs === b.mtimeNs &&
    a.ino === b.ino &&
    a.dev === b.dev &&
    a.mode === b.mode &&
    a.uid === b.uid &&
    a.gid === b.gid &&
    a.nlink === b.nlink &&
    a.size === b.size
  )
}
