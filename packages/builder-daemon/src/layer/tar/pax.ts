import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

/** One record of a pax extended header (POSIX.1-2017, pax, "pax Extended Header"). */
export interface PaxRecord {
  /** latin1 bytes. */
  readonly key: string
  readonly value: Buffer
}

const XATTR = 'SCHILY.xattr.'

/** A key cannot hold `=`, so it and `%` are written as GNU tar does. */
export function xattrKey(name: string): string {
  return XATTR + (/[=%]/.test(name) ? name.replaceAll('%', '%25').replaceAll('=', '%3D') : name)
}

/** Name of the extended attribute a record sets; undefined for other records. */
export function xattrName(key: string): string | undefined {
  if (!key.startsWith(XATTR)) return undefined
  const name = key.slice(XATTR.length)
  return name.includes('%') ? name.replaceAll('%3D', '=').replaceAll('%25', '%') : name
}

export function encodeRecords(records: readonly PaxRecord[]): Buffer {
  const parts: Buffer[] = []
  for (const { key, value } of records) {
    // The length counts its own digits.
    const rest = key.length + value.length + 3
    let length = rest + String(rest).length
    if (String(length).length !== String(rest).length) length = rest + String(length).length
    parts.push(Buffer.from(`${length} ${key}=`, 'latin1'), value, newline)
  }
  return Buffer.concat(parts)
}

const newline = Buffer.from('\n')
const SPACE = 0x20
const NEWLINE = 0x0a
const EQUALS = 0x3d

/** In the order they stand; keys may repeat. Values are views of `body`. Fails with ISB_ARCHIVE_INVALID. */
export function decodeRecords(body: Buffer): PaxRecord[] {
  const records: PaxRecord[] = []
  for (let at = 0; at < body.length; ) {
    const space = body.indexOf(SPACE, at)
    if (space < 0 || space - at > 10) throw invalid('the length of a record is missing')
    const digits = body.toString('latin1', at, space)
    const length = /^[0-9]+$/.test(digits) ? Number(digits) : 0
    const end = at + length
    if (length < space - at + 3 || end > body.length || body[end - 1] !== NEWLINE) {
      throw invalid(`a record has the wrong length "${digits}"`)
    }
    const equals = body.indexOf(EQUALS, space + 1)
    if (equals < 0 || equals >= end || equals === space + 1) throw invalid('a record has no key')
    const key = body.toString('latin1', space + 1, equals)
    const value = body.subarray(equals + 1, end - 1)
    if (key.includes('\0')) throw invalid('a key holds a NUL byte')
    if (textKeys.has(key) && value.includes(0)) throw invalid(`"${key}" holds a NUL byte`)
    records.push({ key, value })
    at = end
  }
  return records
}

const textKeys = new Set(['path', 'linkpath', 'uname', 'gname', 'GNU.sparse.name'])

function invalid(reason: string): BuilderError {
  return new BuilderError('ISB_ARCHIVE_INVALID', `damaged pax header: ${reason}`)
}

/** A non-negative decimal number; undefined when it is none. */
export function decimal(text: string): number | undefined {
  if (!/^[0-9]{1,16}$/.test(text)) return undefined
  const value = Number(text)
  return Number.isSafeInteger(value) ? value : undefined
}

/** `[-]seconds[.fraction]` as nanoseconds; digits beyond nanoseconds are cut. */
export function nanosecondsOf(text: string): bigint | undefined {
  const match = /^(-?)([0-9]{1,12})(?:\.([0-9]*))?$/.exec(text)
  if (match === null) return undefined
  const fraction = (match[3] ?? '').slice(0, 9).padEnd(9, '0')
  const value = BigInt(match[2] ?? '0') * 1_000_000_000n + BigInt(fraction)
  return match[1] === '-' ? -value : value
}
