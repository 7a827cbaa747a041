import { isTarHeader, TarError, tarBlock } from '../build/tar-member.js'

/** An entry of a tar; text is bytes (latin1), numbers are whole and not negative but the time. */
export interface TarHead {
  readonly path: string
  readonly type: 'file' | 'hardlink' | 'symlink' | 'directory' | 'other'
  readonly mode: number
  readonly uid: number
  readonly gid: number
  /** Bytes that follow. */
  readonly size: number
  /** Seconds since the epoch. */
  readonly mtime: number
  readonly linkName: string
  readonly hasAttributes: boolean
}

export interface TarHandler {
  entry(head: TarHead): void
  /** Content of the entry, in pieces of any size, all of it before the next entry. */
  content(piece: Buffer): void
  /** The entry is complete. */
  end(): void
}

export interface TarStream {
  write(chunk: Uint8Array): void
  /** Fails with a TarError when the archive did not come to its end. */
  finish(): void
}

/** Bytes of pax records that one entry may have. */
const paxLimit = 4 * 1024 * 1024

const types: Readonly<Record<string, TarHead['type']>> = {
  ...{ '0': 'file', '\0': 'file', '7': 'file', '1': 'hardlink', '2': 'symlink' },
  ...{ '3': 'other', '4': 'other', '5': 'directory', '6': 'other' },
}

/** Takes a tar apart as it comes: POSIX ustar with pax headers (pax(1)). Everything else is a TarError. */
export function createTarStream(handler: TarHandler): TarStream {
  const block = Buffer.alloc(tarBlock)
  let filled = 0
  let records: ReadonlyMap<string, string> = new Map()
  let pax: Buffer | undefined
  let isGlobal = false
  /** Bytes of content, and then of padding, that are still to come. */
  let left = 0
  let padding = 0
  let state: 'header' | 'pax' | 'content' | 'end' = 'header'

  function header(): void {
    if (block.every((byte) => byte === 0)) {
      state = 'end'
      return
    }
    if (!isTarHeader(block)) throw new TarError('a header has a wrong checksum')
    const flag = block.toString('latin1', 156, 157)
    const plainSize = number(124, 12, 'size')
    if (flag === 'x' || flag === 'g') {
      if (plainSize > paxLimit) throw new TarError('a pax header is too long')
      isGlobal = flag === 'g'
      pax = Buffer.alloc(plainSize)
      begin('pax', plainSize)
      return
    }
    const type = types[flag]
    if (type === undefined) throw new TarError(`an entry has the unknown type ${JSON.stringify(flag)}`)
    const size = type === 'file' ? numeric('size', plainSize) : 0
    handler.entry({
      path: records.get('path') ?? shortPath(),
      type,
      mode: number(100, 8, 'mode') & 0o7777,
      uid: numeric('uid', number(108, 8, 'uid')),
      gid: numeric('gid', number(116, 8, 'gid')),
      size,
      mtime: time(number(136, 12, 'time')),
      linkName: records.get('linkpath') ?? text(157, 100),
      hasAttributes: [...records.keys()].some((key) => key.startsWith('SCHILY.xattr.')),
    })
    records = new Map()
    begin('content', size)
  }

  function begin(next: 'pax' | 'content', size: number): void {
    state = next
    left = size
    padding = (tarBlock - (size % tarBlock)) % tarBlock
    if (left === 0) complete()
  }

  function complete(): void {
    if (state === 'content') handler.end()
    // A global header describes the archive, not what is in it.
    else if (!isGlobal) records = recordsOf(pax ?? Buffer.alloc(0))
    state = 'header'
  }

  function number(at: number, length: number, what: string): number {
    const digits = text(at, length).trim()
    if (!/^[0-7]*$/.test(digits)) throw new TarError(`the ${what} of an entry is malformed`)
    return Number.parseInt(digits || '0', 8)
  }

  function numeric(key: string, plain: number): number {
    const given = records.get(key)
    if (given === undefined) return plain
    const value = Number(given)
    if (!/^\d+$/.test(given) || !Number.isSafeInteger(value)) throw new TarError(`a pax ${key} is malformed`)
    return value
  }

  function time(plain: number): number {
    const given = records.get('mtime')
    if (given === undefined) return plain
    if (!/^-?\d{1,15}(\.\d*)?$/.test(given)) throw new TarError('a pax mtime is malformed')
    return Number(given)
  }

  function text(at: number, length: number): string {
    const end = block.indexOf(0, at)
    return block.toString('latin1', at, end === -1 || end > at + length ? at + length : end)
  }

  function shortPath(): string {
    const prefix = block.toString('latin1', 257, 263) === 'ustar\0' ? text(345, 155) : ''
    return prefix === '' ? text(0, 100) : `${prefix}/${text(0, 100)}`
  }

  return {
    write(chunk) {
      const bytes = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength)
      for (let at = 0; at < bytes.length && state !== 'end'; ) {
        if (state === 'header' && padding > 0) {
          const count = Math.min(padding, bytes.length - at)
          padding -= count
          at += count
        } else if (state === 'header') {
          const count = bytes.copy(block, filled, at, at + tarBlock - filled)
          filled += count
          at += count
          if (filled < tarBlock) continue
          filled = 0
          header()
        } else {
          const piece = bytes.subarray(at, at + left)
          if (state === 'content') handler.content(piece)
          else if (pax !== undefined) piece.copy(pax, pax.length - left)
          left -= piece.length
          at += piece.length
          if (left === 0) complete()
        }
      }
    },
    finish() {
      if (state !== 'end') throw new TarError('it ends before its end')
    },
  }
}

/** `LENGTH KEY=VALUE\n`, the length in bytes and of all of it. */
function recordsOf(bytes: Buffer): ReadonlyMap<string, string> {
  const records = new Map<string, string>()
  for (let at = 0; at < bytes.length; ) {
    const blank = bytes.indexOf(0x20, at)
    const digits = bytes.toString('latin1', at, blank === -1 ? at : blank)
    const end = at + Number(digits)
    const equals = bytes.indexOf(0x3d, blank)
    const fits = /^\d{1,8}$/.test(digits) && end <= bytes.length && equals > blank && equals < end
    if (!fits || bytes[end - 1] !== 0x0a) throw new TarError('a pax record is malformed')
    records.set(bytes.toString('latin1', blank + 1, equals), bytes.toString('latin1', equals + 1, end - 1))
    at = end
  }
  return records
}
