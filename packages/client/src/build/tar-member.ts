import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

export const tarBlock = 512
/** Names and PAX records, bytes. */
const headLimit = 1024 * 1024

/** The tar is damaged. */
export class TarError extends Error {}

/** True for a block whose checksum is that of a tar header. */
export function isTarHeader(head: Buffer): boolean {
  if (head.length < tarBlock) return false
  const wanted = Number.parseInt(field(head, 148, 8), 8)
  // The checksum itself counts as blanks.
  const sum = head.subarray(0, tarBlock).reduce((total, byte) => total + byte, 0)
  const own = head.subarray(148, 156).reduce((total, byte) => total + byte, 0)
  return wanted === sum - own + 8 * 0x20
}

/** Content of the regular member of that name, `./` in front of it or not; others are passed over. */
export async function findMember(
  tar: AsyncIterable<Uint8Array>,
  wanted: string,
  limit: number,
): Promise<Buffer | undefined> {
  const reader = new BlockReader(tar)
  let longName: string | undefined
  for (;;) {
    const head = await reader.read(tarBlock)
    if (head === undefined || head.every((byte) => byte === 0)) return undefined
    if (!isTarHeader(head)) throw new TarError('a header has a wrong checksum')
    const size = sizeOf(head)
    const padded = Math.ceil(size / tarBlock) * tarBlock
    const type = head.toString('latin1', 156, 157)
    if (type === 'L' || type === 'x') {
      if (size > headLimit) throw new TarError('a name is too long')
      const content = (await reader.need(padded)).subarray(0, size)
      longName = type === 'L' ? field(content, 0, size) : (paxPath(content) ?? longName)
      continue
    }
    const name = plain(longName ?? shortName(head))
    longName = undefined
    if ((type === '0' || type === '\0') && name === plain(wanted)) {
      if (size > limit)
        throw new BuilderError('ISB_LIMIT_EXCEEDED', `${wanted} is larger than ${limit} bytes`)
      return Buffer.from((await reader.need(padded)).subarray(0, size))
    }
    await reader.skip(padded)
  }
}

/** Without `.` components and doubled slashes. */
function plain(name: string): string {
  return name
    .split('/')
    .filter((part) => part !== '' && part !== '.')
    .join('/')
}

function shortName(head: Buffer): string {
  const prefix = head.toString('latin1', 257, 263) === 'ustar\0' ? field(head, 345, 155) : ''
  const name = field(head, 0, 100)
  return prefix === '' ? name : `${prefix}/${name}`
}

/** Octal, or base 256 when the first bit is set (GNU). */
function sizeOf(head: Buffer): number {
  const first = head[124] ?? 0
  const size =
    first & 0x80 ? Number(head.readBigUInt64BE(128)) : Number.parseInt(field(head, 124, 12) || '0', 8)
  if (!Number.isSafeInteger(size) || size < 0) throw new TarError('a member has no size')
  return size
}

/** `LENGTH path=VALUE\n` */
function paxPath(records: Buffer): string | undefined {
  for (let at = 0; at < records.length; ) {
    const blank = records.indexOf(0x20, at)
    const length = blank === -1 ? 0 : Number(records.toString('latin1', at, blank))
    if (!Number.isInteger(length) || length <= 0) throw new TarError('a PAX record is malformed')
    const record = records.toString('utf8', blank + 1, at + length - 1)
    if (record.startsWith('path=')) return record.slice('path='.length)
    at += length
  }
  return undefined
}

function field(bytes: Buffer, at: number, length: number): string {
  const end = bytes.indexOf(0, at)
  return bytes.toString('utf8', at, end === -1 || end > at + length ? at + length : end).trim()
}

/** Reads a stream in pieces of given sizes. */
class BlockReader {
  private readonly chunks: AsyncIterator<Uint8Array>
  private rest: Buffer = Buffer.alloc(0)

  constructor(stream: AsyncIterable<Uint8Array>) {
    this.chunks = stream[Symbol.asyncIterator]()
  }

  /** undefined at the end. */
  async read(size: number): Promise<Buffer | undefined> {
    const parts = [this.rest]
    let length = this.rest.length
    while (length < size) {
      const next = await this.chunks.next()
      if (next.done) {
        if (length === 0) return undefined
        throw new TarError('it ends in the middle of a member')
      }
      parts.push(Buffer.from(next.value))
      length += next.value.length
    }
    const all = Buffer.concat(parts)
    this.rest = all.subarray(size)
    return all.subarray(0, size)
  }

  async need(size: number): Promise<Buffer> {
    const bytes = size === 0 ? Buffer.alloc(0) : await this.read(size)
    if (bytes === undefined) throw new TarError('it ends in the middle of a member')
    return bytes
  }

  async skip(size: number): Promise<void> {
    for (let left = size; left > 0; ) {
      const part = Math.min(left, 1024 * 1024)
      await this.need(part)
      left -= part
    }
  }
}
