import { createHash } from 'node:crypto'
import { digestFromHex } from '@isula-build/shared/oci/digest.js'
import type { ResolvedCopyInput } from '../../ports/layer-worker.js'
import type { FileStamp } from '../../system/file-stat.js'
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
 * BuildKit's content hash, so that a fresh checkout of equal files is a cache hit. No path holds a NUL, and a file's
 * digest has always the same length, so two lists of entries never have the same lines.
 */
function recordLine(record: ContentRecord, size: number, digest: Buffer | undefined): string {
  const { type, mode, uid, gid, link, rdevMajor, rdevMinor, xattrs } = record.entry
  const owner = record.keepsOwner ? `${uid}:${gid}` : ''
  const device = type === 'character' || type === 'block' ? `${rdevMajor}:${rdevMinor}` : ''
  const content = type === 'file' ? `${size}:${digest?.toString('latin1') ?? ''}` : ''
  const attributes = xattrs.length === 0 ? '' : JSON.stringify(xattrs)
  const numbers = `${type} ${type === 'symlink' ? 0 : mode} ${owner} ${device}`
  return `${record.path}\0${record.hardLink ?? ''}\0${link}\0${numbers} ${attributes}\0${content}`
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

/**
 * Sums up what is copied: a part for each match of a source, in their order. A part's lines come in the order of its walk,
 * but several parts may grow side by side.
 */
export interface ContentKey {
  part(): ContentPart
  /** Once all parts are complete. */
  key(): string
}

export interface ContentPart {
  add(record: ContentRecord, size: number, digest: Buffer | undefined, stamp?: FileStamp): void
  /** A directory whose content is copied; its own metadata is not. */
  top(key: string): void
  /** Nothing more will come: keeps many parts small. */
  close(): void
}

/** Changes with the key of any sources: keys of another version are not asked for. */
export const contentKeyVersion = 3

const longestText = 1 << 16
const digestBytes = 32

/** Gets what the parts get; `stamp` is that of the file that was written for the record, if one was. */
export type ObserveContent = (
  record: ContentRecord,
  digest: Buffer | undefined,
  stamp: FileStamp | undefined,
) => void

/** Where the key is known already, what the parts get is observed only. */
export function knownContentKey(key: string, observe: ObserveContent): ContentKey {
  const part: ContentPart = {
    add: (record, _size, digest, stamp) => observe(record, digest, stamp),
    top: () => undefined,
    close: () => undefined,
  }
  return { part: () => part, key: () => key }
}

export function createContentKey(observe?: ObserveContent): ContentKey {
  let digests = Buffer.alloc(8 * digestBytes)
  let count = 0
  const open = new Set<ContentPart>()

  function part(): ContentPart {
    const number = count
    const at = number * digestBytes
    count += 1
    if (digests.length < count * digestBytes) digests = Buffer.concat([digests, Buffer.alloc(digests.length)])
    const hash = createHash('sha256')
    let text = ''
    function append(line: string): void {
      text += `${line}\n`
      if (text.length < longestText) return
      hash.update(text, 'latin1')
      text = ''
    }
    const made: ContentPart = {
      add(record, size, digest, stamp) {
        append(recordLine(record, size, digest))
        observe?.(record, digest, stamp)
      },
      top: (key) => append(JSON.stringify([key, 'content'])),
      close() {
        if (!open.delete(made)) return
        hash.update(text, 'latin1').digest().copy(digests, at)
      },
    }
    open.add(made)
    return made
  }

  return {
    part,
    key() {
      for (const one of open) one.close()
      return digestFromHex(
        createHash('sha256')
          .update(digests.subarray(0, count * digestBytes))
          .digest('hex'),
      )
    },
  }
}
