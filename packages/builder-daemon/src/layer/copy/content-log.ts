import { createHash } from 'node:crypto'
import type { ResolvedCopyInput } from '../../ports/layer-worker.js'
import { joinPath, type SourceEntry } from './source-reader.js'

/** One thing that is copied, for the content key. */
export interface ContentRecord {
  /** Number of the input, the path that matched, and the path below it. */
  readonly path: string
  readonly entry: Pick<SourceEntry, 'type' | 'mode' | 'uid' | 'gid' | 'link' | 'xattrs'> & {
    readonly rdevMajor: number
    readonly rdevMinor: number
  }
  /** False where the owner is not taken from the source. */
  readonly keepsOwner: boolean
  /** The first path with the same inode below the same match. */
  readonly hardLink: string | undefined
  /** What was looked at; undefined for what is not looked up in a tree. */
  readonly source: SourceEntry | undefined
}

/**
 * Everything that makes a difference to what is copied, one line per entry. Times do not count, as in
 * BuildKit's content hash, so that a fresh checkout of equal files is a cache hit.
 */
export function recordLine(record: ContentRecord, size: number, digest: Buffer | undefined): string {
  const { entry } = record
  const isDevice = entry.type === 'character' || entry.type === 'block'
  return JSON.stringify([
    record.path,
    entry.type,
    entry.type === 'symlink' ? 0 : entry.mode,
    record.keepsOwner ? [entry.uid, entry.gid] : 0,
    entry.type === 'file' ? size : 0,
    digest?.toString('base64') ?? '',
    record.hardLink ?? '',
    entry.link,
    isDevice ? [entry.rdevMajor, entry.rdevMinor] : 0,
    entry.xattrs,
  ])
}

interface CopiedSource {
  readonly key: string
  readonly input: { readonly isContext: boolean }
}

export function recordOf(
  source: CopiedSource,
  item: { readonly entry: SourceEntry; readonly relative: string },
  hardLink?: string,
): ContentRecord {
  return {
    path: joinPath(source.key, item.relative),
    entry: item.entry,
    keepsOwner: !source.input.isContext,
    hardLink,
    source: item.entry,
  }
}

/** A directory whose content is copied; its own metadata is not. */
export function directoryLine(key: string): string {
  return JSON.stringify([key, 'content'])
}

/** An input that is not looked up in a tree. */
export function namedRecord(
  input: Exclude<ResolvedCopyInput, { kind: 'tree' }>,
  index: number,
): ContentRecord {
  const entry = { mode: 0, uid: 0, gid: 0, link: '', xattrs: [], rdevMajor: 0, rdevMinor: 0 }
  const path = Buffer.from(`${index}:${input.kind}:${input.name}`, 'utf8').toString('latin1')
  return {
    path,
    entry: { ...entry, type: 'file' },
    keepsOwner: false,
    hardLink: undefined,
    source: undefined,
  }
}

/** Sums up lines that come in the order of the sources. */
export function createContentHash(): { add(line: string): void; key(): string } {
  const hash = createHash('sha256')
  return {
    add: (line) => {
      hash.update(line, 'latin1').update('\n')
    },
    key: () => `sha256:${hash.digest('hex')}`,
  }
}
