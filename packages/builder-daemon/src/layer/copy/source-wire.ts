import type { FileType } from '../../system/file-stat.js'
import type { ScanRequest, SourceEntry, SourceState } from './source-reader.js'

/**
 * What a layer worker asks the identity helper of a context, and its answers: JSON values of
 * `system/packets.ts`. The helper runs with the caller's rights and could be made to lie by its
 * owner, so every answer is checked here before it is believed.
 */
export type SourceRequest =
  | { readonly op: 'stat'; readonly path: string }
  | { readonly op: 'list'; readonly path: string; readonly bare: boolean }
  | ({ readonly op: 'scan' } & ScanRequest)
  | { readonly op: 'open'; readonly paths: readonly string[] }
  | { readonly op: 'stream'; readonly path: string }

/** A failure: the name of the errno, or `CHANGED` and `REFUSED`. */
export interface WireError {
  readonly code: string
}

/** Entries of a directory come in several answers of about this many entries. */
export const entriesPerAnswer = 256

/** Descriptors per `open`; below the kernel's limit of 253. */
export const pathsPerOpen = 64

/** Bytes; a question must fit the socket's buffer, so that asking never waits. */
export const questionLimit = 32 * 1024

/** Bytes of one answer: a batch of entries with all their attributes. */
export const answerLimit = 64 * 1024 * 1024

export function encodeEntry(entry: SourceEntry): unknown {
  const { mtimeNs, ctimeNs, dev, ino } = entry
  return {
    ...entry,
    ...{ mtimeNs: String(mtimeNs), ctimeNs: String(ctimeNs), dev: String(dev), ino: String(ino) },
  }
}

const types: ReadonlySet<string> = new Set<FileType>([
  'file',
  'directory',
  'symlink',
  'fifo',
  'socket',
  'character',
  'block',
])

/** Throws a plain Error on anything a true helper would not send. */
export function decodeEntry(value: unknown, isRoot: boolean): SourceEntry {
  const entry = record(value)
  const name = text(entry['name'])
  if (isRoot ? name !== '' : name === '' || name === '.' || name === '..' || /[/\0]/.test(name)) {
    throw malformed('name')
  }
  const type = text(entry['type'])
  if (!types.has(type)) throw malformed('type')
  const link = text(entry['link'])
  if (link.includes('\0') || link.length > 4096) throw malformed('link')
  return {
    name,
    type: type as FileType,
    mode: integer(entry['mode'], 0o7777),
    uid: integer(entry['uid'], 0xffffffff),
    gid: integer(entry['gid'], 0xffffffff),
    size: integer(entry['size'], Number.MAX_SAFE_INTEGER),
    mtimeNs: wholeNumber(entry['mtimeNs']),
    ctimeNs: wholeNumber(entry['ctimeNs']),
    dev: wholeNumber(entry['dev']),
    ino: wholeNumber(entry['ino']),
    nlink: integer(entry['nlink'], 0xffffffff),
    inode: entry['inode'] === undefined ? undefined : text(entry['inode']),
    rdevMajor: integer(entry['rdevMajor'], 0xffffffff),
    rdevMinor: integer(entry['rdevMinor'], 0xffffffff),
    link,
    xattrs: array(entry['xattrs']).map(xattr),
  }
}

/** How the helper tells that it still works on a scan. */
export const busy = { busy: true }

export function encodeState(state: SourceState | undefined): unknown {
  if (state === undefined) return {}
  return { digest: state.digest.toString('hex'), latestNs: String(state.latestNs) }
}

/** 'busy' when there is more to come. */
export function decodeState(value: unknown): SourceState | 'busy' | undefined {
  const answer = record(value)
  if (answer['busy'] === true) return 'busy'
  if (answer['digest'] === undefined) return undefined
  const digest = Buffer.from(text(answer['digest']), 'hex')
  if (digest.length !== 32) throw malformed('digest')
  return { digest, latestNs: wholeNumber(answer['latestNs']) }
}

function xattr(value: unknown): readonly [string, string] {
  const [name, content] = array(value).map(text)
  if (name === undefined || content === undefined || name === '' || name.includes('\0')) {
    throw malformed('xattr')
  }
  return [name, content]
}

export function decodeError(value: unknown): WireError | undefined {
  const code = record(value)['code']
  return code === undefined ? undefined : { code: text(code) }
}

export function record(value: unknown): Readonly<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw malformed('object')
  return value as Record<string, unknown>
}

export function array(value: unknown): readonly unknown[] {
  if (!Array.isArray(value)) throw malformed('array')
  return value
}

export function text(value: unknown): string {
  if (typeof value !== 'string') throw malformed('text')
  return value
}

export function integer(value: unknown, maximum: number): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0 || value > maximum) {
    throw malformed('number')
  }
  return value
}

export function wholeNumber(value: unknown): bigint {
  const digits = text(value)
  if (!/^-?\d{1,20}$/.test(digits)) throw malformed('number')
  return BigInt(digits)
}

function malformed(what: string): Error {
  return new Error(`malformed answer of an identity helper: ${what}`)
}
