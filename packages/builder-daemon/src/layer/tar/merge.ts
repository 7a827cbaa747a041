import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import { type ExtendedAttribute, noAttributes, type TarEntry, type TarEntryType } from './entry.js'
import { MAX_IDENTITY, type RawHeader } from './header.js'
import { decimal, nanosecondsOf, type PaxRecord, xattrName } from './pax.js'
import { pairedRuns, type SparseRun } from './sparse.js'

export interface TarLimits {
  readonly entries: number
  /** Bytes of a path or link name. */
  readonly path: number
  /** Bytes of one extended header. */
  readonly pax: number
  /** Extended attributes of one entry. */
  readonly xattrs: number
}

export const defaultLimits: TarLimits = { entries: 16_000_000, path: 4096, pax: 1 << 20, xattrs: 512 }

const types: Readonly<Record<string, TarEntryType>> = {
  '0': 'file',
  '\0': 'file',
  '7': 'file',
  S: 'file',
  '1': 'hardlink',
  '2': 'symlink',
  '3': 'character',
  '4': 'block',
  '5': 'directory',
  '6': 'fifo',
}

/** Extended headers that stand before an entry. */
export interface Extensions {
  pax: readonly PaxRecord[]
  longName: string | undefined
  longLink: string | undefined
}

export interface ReadEntry extends TarEntry {
  /** Parts with data, for a sparse file; undefined for all others. */
  readonly sparse: readonly SparseRun[] | undefined
  /** Where the stored data begins in the tar, and its bytes there. */
  readonly payloadOffset: number
  readonly storedSize: number
}

/** An entry whose place the reader still has to fill in. */
export type EntryDraft = { -readonly [K in keyof ReadEntry]: ReadEntry[K] }

/** `leading`: the map stands at the start of the data (pax sparse 1.0). */
export type SparseMap =
  | { readonly kind: 'known'; readonly runs: readonly SparseRun[] }
  | { readonly kind: 'leading' }

export interface Merged {
  readonly entry: EntryDraft
  /** Bytes of payload in the tar. */
  readonly stored: number
  readonly map: SparseMap | undefined
}

/** One entry from its header and the extended headers before it. */
export function mergeEntry(
  header: RawHeader,
  extensions: Extensions,
  old: { readonly runs: readonly SparseRun[]; readonly size: number } | undefined,
  limits: TarLimits,
): Merged {
  let type = types[header.flag]
  let path = extensions.longName ?? header.name
  if (type === undefined) {
    const flag = JSON.stringify(header.flag)
    throw new BuilderError('ISB_ARCHIVE_INVALID', `"${textOfBytes(path)}" has the unknown tar type ${flag}`)
  }
  let linkName = extensions.longLink ?? header.linkName
  let { uid, gid, size } = header
  let mtimeNs = BigInt(header.mtime) * 1_000_000_000n
  const xattrs = new Map<string, Buffer>()
  const sparse = new Map<string, string>()
  const pairs: string[] = []
  for (const { key, value } of extensions.pax) {
    if (key.startsWith('GNU.sparse.')) {
      const text = value.toString('latin1')
      if (key === 'GNU.sparse.offset' || key === 'GNU.sparse.numbytes') {
        if ((pairs.length % 2 === 0) !== (key === 'GNU.sparse.offset')) throw damaged(key)
        pairs.push(text)
      } else sparse.set(key.slice(11), text)
      continue
    }
    const attribute = xattrName(key)
    if (attribute !== undefined) xattrs.set(attribute, value)
    // An empty value takes the record back; the header's own then counts.
    else if (value.length === 0) continue
    else if (key === 'path') path = value.toString('latin1')
    else if (key === 'linkpath') linkName = value.toString('latin1')
    else if (key === 'size') size = number(key, value)
    else if (key === 'uid') uid = identity(key, value)
    else if (key === 'gid') gid = identity(key, value)
    else if (key === 'mtime') mtimeNs = nanosecondsOf(value.toString('latin1')) ?? failed(key)
  }
  if (xattrs.size > limits.xattrs) {
    throw new BuilderError(
      'ISB_LIMIT_EXCEEDED',
      `"${textOfBytes(path)}" has more than ${limits.xattrs} extended attributes`,
    )
  }
  // The oldest tars have no type for directories.
  if (header.flag === '\0' && path.endsWith('/')) type = 'directory'
  const stored = type === 'file' ? size : 0
  let map: SparseMap | undefined
  if (old !== undefined) {
    map = { kind: 'known', runs: old.runs }
    size = old.size
  } else if (type === 'file') {
    map = paxSparse(sparse, pairs)
    if (map !== undefined) {
      path = sparse.get('name') ?? path
      const real = sparse.get('realsize') ?? sparse.get('size')
      if (real !== undefined) size = decimal(real) ?? failed('GNU.sparse.size')
    }
  }
  for (const name of [path, linkName]) {
    if (name.length > limits.path) {
      throw new BuilderError('ISB_LIMIT_EXCEEDED', `a name in the tar has more than ${limits.path} bytes`)
    }
  }
  const entry: EntryDraft = {
    path,
    type,
    mode: header.mode,
    uid,
    gid,
    size: type === 'file' ? size : 0,
    mtimeNs,
    linkName: type === 'symlink' || type === 'hardlink' ? linkName : '',
    deviceMajor: header.deviceMajor,
    deviceMinor: header.deviceMinor,
    xattrs: xattrs.size === 0 ? noAttributes : attributesOf(xattrs),
    sparse: undefined,
    payloadOffset: 0,
    storedSize: 0,
  }
  return { entry, stored, map }
}

function attributesOf(xattrs: ReadonlyMap<string, Buffer>): ExtendedAttribute[] {
  return [...xattrs].map(([name, value]) => ({ name, value }))
}

function paxSparse(sparse: ReadonlyMap<string, string>, pairs: readonly string[]): SparseMap | undefined {
  const version = `${sparse.get('major') ?? ''}.${sparse.get('minor') ?? ''}`
  if (version === '1.0') return { kind: 'leading' }
  const map = sparse.get('map')
  if (version !== '.' && version !== '0.0' && version !== '0.1') return undefined
  if (map !== undefined && map !== '') return { kind: 'known', runs: pairedRuns(map.split(',')) }
  if (pairs.length > 0 || version !== '.') return { kind: 'known', runs: pairedRuns(pairs) }
  return undefined
}

function number(key: string, value: Buffer): number {
  return decimal(value.toString('latin1')) ?? failed(key)
}

function identity(key: string, value: Buffer): number {
  const id = number(key, value)
  return id <= MAX_IDENTITY ? id : failed(key)
}

function failed(key: string): never {
  throw damaged(key)
}

function damaged(key: string): BuilderError {
  return new BuilderError('ISB_ARCHIVE_INVALID', `damaged pax header: "${key}" has no usable value`)
}
