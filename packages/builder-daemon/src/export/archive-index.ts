import { posix } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import { BLOCK, padding } from '../layer/tar/entry.js'
import { decodeHeader, type RawHeader } from '../layer/tar/header.js'
import { decimal, decodeRecords } from '../layer/tar/pax.js'
import type { ArchiveFile } from './archive-file.js'
import type { ArchiveLimits } from './archive-limits.js'
import { readAt, throwIfAborted } from './descriptor-io.js'

/** Where the bytes of one member lie. Names are latin1 bytes, relative, without `.` and `..`. */
export interface Member {
  readonly name: string
  readonly fd: number
  readonly offset: number
  readonly size: number
}

interface Link {
  readonly linkTarget: string
}

/** The members of one archive, or of several that make up one image. */
export interface ArchiveIndex {
  readonly entries: ReadonlyMap<string, Member | Link>
  /** Names that more than one regular file has. */
  readonly duplicates: ReadonlySet<string>
}

interface Scan {
  readonly entries: Map<string, Member | Link>
  readonly duplicates: Set<string>
  members: number
  nameBytes: number
}

/** What GNU and PAX headers say about the member that follows them. */
interface Override {
  path?: string
  linkPath?: string
  size?: number
  sparse?: boolean
}

const readAhead = 64 * 1024
const maxExtendedHeader = 1024 * 1024
const maxName = 4096
const maxLinks = 10
/** Links, devices, directories and FIFOs have no payload, whatever their size field says. */
const typesWithoutPayload = new Set(['1', '2', '3', '4', '5', '6'])
const extensionTypes = new Set(['x', 'g', 'L', 'K'])

/**
 * Lists the members without reading their content. Later members replace earlier ones of the same name, as
 * when unpacking; names that are absolute or climb are not listed. Data after the end marker is ignored.
 * Fails with ISB_ARCHIVE_INVALID when this is no tar or it ends early, ISB_LIMIT_EXCEEDED, ISB_CANCELLED.
 */
export async function indexArchive(
  file: Pick<ArchiveFile, 'fd' | 'size' | 'path'>,
  limits: ArchiveLimits,
  signal: AbortSignal,
): Promise<ArchiveIndex> {
  const read = bufferedReader(file.fd)
  const scan: Scan = { entries: new Map(), duplicates: new Set(), members: 0, nameBytes: 0 }
  let override: Override = {}
  let offset = 0
  while (offset + BLOCK <= file.size) {
    throwIfAborted(signal)
    const header = headerAt(await read(offset, BLOCK), offset)
    if (header === undefined) return scan
    const start = offset + BLOCK
    const size = payloadSize(header, override)
    if (start + size > file.size) {
      throw new BuilderError('ISB_ARCHIVE_INVALID', `the archive ends inside ${shown(header.name)}`, {
        hint: 'The file is incomplete; copy it again.',
      })
    }
    scan.members++
    if (scan.members > limits.members) throw tooMany(`${limits.members} members`)
    if (header.flag === 'x' || header.flag === 'L' || header.flag === 'K') {
      override = { ...override, ...(await readOverride(read, header, start)) }
    } else if (header.flag !== 'g') {
      addMember(scan, header, { ...override, size }, { fd: file.fd, offset: start, limits })
      override = {}
    }
    offset = start + size + padding(size)
  }
  if (offset === 0) throw new BuilderError('ISB_ARCHIVE_INVALID', 'it is too short for a tar archive')
  if (offset < file.size) throw new BuilderError('ISB_ARCHIVE_INVALID', 'the archive ends inside a header')
  return scan
}

/** The members of several archives; an archive later in the list replaces equal names. */
export function mergeIndexes(indexes: readonly ArchiveIndex[]): ArchiveIndex {
  const entries = new Map<string, Member | Link>()
  const duplicates = new Set<string>()
  for (const index of indexes) {
    for (const [name, entry] of index.entries) entries.set(name, entry)
    for (const name of index.duplicates) duplicates.add(name)
  }
  return { entries, duplicates }
}

/**
 * The regular file with this name; links are followed inside the archive only. Undefined when there is
 * none. Fails with ISB_ARCHIVE_INVALID when the name or a link leaves the archive or goes round in circles.
 */
export function findMember(index: ArchiveIndex, name: string): Member | undefined {
  let current = memberName(name)
  for (let links = 0; links <= maxLinks; links++) {
    if (current === undefined) {
      throw new BuilderError('ISB_ARCHIVE_INVALID', `${shown(name)} leads outside the archive`)
    }
    const entry = index.entries.get(current)
    if (entry === undefined || !('linkTarget' in entry)) return entry
    current = memberName(entry.linkTarget)
  }
  throw new BuilderError('ISB_ARCHIVE_INVALID', `${shown(name)} is a link that leads to no file`)
}

/** All of a small member. Fails with ISB_LIMIT_EXCEEDED above `limit`. */
export async function readMember(member: Member, limit: number): Promise<Buffer> {
  if (member.size > limit) {
    throw new BuilderError(
      'ISB_LIMIT_EXCEEDED',
      `${shown(member.name)} has ${member.size} bytes, more than the ${limit} allowed`,
    )
  }
  const bytes = await readAt(member.fd, member.offset, member.size)
  if (bytes.length < member.size) {
    throw new BuilderError('ISB_ARCHIVE_INVALID', `the archive ends inside ${shown(member.name)}`)
  }
  return bytes
}

/** A control file, which two of the same name would make ambiguous. */
export async function readUniqueMember(
  index: ArchiveIndex,
  name: string,
  limit: number,
): Promise<Buffer | undefined> {
  const member = findMember(index, name)
  if (member === undefined) return undefined
  if (index.duplicates.has(member.name)) {
    throw new BuilderError('ISB_ARCHIVE_INVALID', `the archive holds ${shown(name)} more than once`)
  }
  return readMember(member, limit)
}

type Read = (offset: number, length: number) => Promise<Buffer>

function bufferedReader(fd: number): Read {
  let buffer: Buffer = Buffer.alloc(0)
  let start = 0
  return async (offset, length) => {
    if (offset < start || offset + length > start + buffer.length) {
      buffer = await readAt(fd, offset, Math.max(length, readAhead))
      start = offset
    }
    return buffer.subarray(offset - start, offset - start + length)
  }
}

function headerAt(block: Buffer, offset: number): RawHeader | undefined {
  try {
    return decodeHeader(block, 0)
  } catch (error) {
    if (offset > 0 || !(error instanceof BuilderError)) throw error
    throw new BuilderError('ISB_ARCHIVE_INVALID', 'it is not a tar archive', { cause: error })
  }
}

function payloadSize(header: RawHeader, override: Override): number {
  if (typesWithoutPayload.has(header.flag)) return 0
  return extensionTypes.has(header.flag) ? header.size : (override.size ?? header.size)
}

async function readOverride(read: Read, header: RawHeader, start: number): Promise<Override> {
  const limit = header.flag === 'x' ? maxExtendedHeader : maxName + 1
  if (header.size > limit) throw tooMany(`${limit} bytes in an extended header`)
  const bytes = await read(start, header.size)
  if (header.flag !== 'x') {
    const name = bytes.toString('latin1').replace(/\0.*$/s, '')
    return header.flag === 'L' ? { path: name } : { linkPath: name }
  }
  const override: Override = {}
  for (const { key, value } of decodeRecords(bytes)) {
    if (key === 'path') override.path = value.toString('latin1')
    else if (key === 'linkpath') override.linkPath = value.toString('latin1')
    else if (key === 'size') override.size = paxSize(value.toString('latin1'))
    else if (key.startsWith('GNU.sparse.')) override.sparse = true
  }
  return override
}

function paxSize(value: string): number {
  const size = decimal(value)
  if (size !== undefined) return size
  throw new BuilderError('ISB_ARCHIVE_INVALID', 'a size in a tar extended header is damaged')
}

function addMember(
  scan: Scan,
  header: RawHeader,
  override: Override & { readonly size: number },
  { fd, offset, limits }: { fd: number; offset: number; limits: ArchiveLimits },
): void {
  const path = override.path ?? header.name
  const name = memberName(path)
  if (name === undefined || name === '' || name.length > maxName) return
  const linkPath = override.linkPath ?? header.linkName
  const isFile = '0\x007'.includes(header.flag) && !path.endsWith('/') && override.sparse !== true
  let entry: Member | Link
  if (isFile) entry = { name, fd, offset, size: override.size }
  else if (header.flag === '1') entry = { linkTarget: linkPath }
  else if (header.flag === '2') entry = { linkTarget: symlinkTarget(name, linkPath) }
  else {
    scan.entries.delete(name)
    return
  }
  scan.nameBytes += name.length + linkPath.length
  if (scan.nameBytes > limits.memberNames) throw tooMany(`${limits.memberNames} bytes of member names`)
  const previous = scan.entries.get(name)
  if (isFile && previous !== undefined && !('linkTarget' in previous)) scan.duplicates.add(name)
  scan.entries.set(name, entry)
}

/** An absolute target stays absolute and is refused when it is followed. */
function symlinkTarget(name: string, target: string): string {
  return target.startsWith('/') ? target : posix.join(posix.dirname(name), target)
}

/** Cleaned lexically; undefined for what is absolute or climbs out. */
function memberName(path: string): string | undefined {
  if (path.startsWith('/') || path.includes('\0')) return undefined
  const clean = posix.normalize(path === '' ? '.' : path).replace(/\/$/, '')
  if (clean === '..' || clean.startsWith('../')) return undefined
  return clean === '.' ? '' : clean
}

function tooMany(what: string): BuilderError {
  return new BuilderError('ISB_LIMIT_EXCEEDED', `the archive holds more than ${what}`)
}

function shown(name: string): string {
  return JSON.stringify(textOfBytes(name.slice(0, 200)))
}
