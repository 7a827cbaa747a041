import { huffmanText } from './huffman.js'

/** Names in lower case; of what comes twice both values. */
export type Headers = readonly (readonly [name: string, value: string])[]

/** RFC 7541, appendix A, from index 1: `name` or `name value`. */
const staticTable = [
  ':authority|:method GET|:method POST|:path /|:path /index.html|:scheme http|:scheme https|:status 200',
  ':status 204|:status 206|:status 304|:status 400|:status 404|:status 500|accept-charset',
  'accept-encoding gzip, deflate|accept-language|accept-ranges|accept|access-control-allow-origin|age|allow',
  'authorization|cache-control|content-disposition|content-encoding|content-language|content-length',
  'content-location|content-range|content-type|cookie|date|etag|expect|expires|from|host|if-match',
  'if-modified-since|if-none-match|if-range|if-unmodified-since|last-modified|link|location|max-forwards',
  'proxy-authenticate|proxy-authorization|range|referer|refresh|retry-after|server|set-cookie',
  'strict-transport-security|transfer-encoding|user-agent|vary|via|www-authenticate',
].join('|')

let entries: Headers | undefined

function staticEntry(index: number): readonly [string, string] | undefined {
  entries ??= staticTable.split('|').map((entry) => {
    const space = entry.indexOf(' ')
    return space === -1 ? [entry, ''] : [entry.slice(0, space), entry.slice(space + 1)]
  })
  return entries[index - 1]
}

/** A header block that is not HPACK, or uses a dynamic table. */
export class HpackError extends Error {}

interface Cursor {
  readonly bytes: Uint8Array
  at: number
}

/**
 * The headers of one block (RFC 7541) of a peer that was allowed no dynamic table: then a block stands for itself.
 * Throws HpackError.
 */
export function decodeHeaders(block: Uint8Array): Headers {
  const cursor: Cursor = { bytes: block, at: 0 }
  const headers: (readonly [string, string])[] = []
  while (cursor.at < block.length) {
    const first = block[cursor.at] ?? 0
    if (first >= 0x80) {
      const entry = staticEntry(integer(cursor, 7))
      if (entry === undefined) throw new HpackError('reference beyond the static table')
      headers.push(entry)
    } else if (first >= 0x20 && first < 0x40) {
      if (integer(cursor, 5) !== 0) throw new HpackError('dynamic table of more than nothing')
    } else {
      // What is to be indexed finds no room in a table without any.
      const index = integer(cursor, first >= 0x40 ? 6 : 4)
      const name = index === 0 ? text(cursor) : staticEntry(index)?.[0]
      if (name === undefined) throw new HpackError('reference beyond the static table')
      headers.push([name, text(cursor)])
    }
  }
  return headers
}

/** A block of literals that enter no table. The peer takes it whatever it remembers. */
export function encodeHeaders(headers: Headers): Buffer {
  const parts: Buffer[] = []
  for (const [name, value] of headers) {
    const bytes = Buffer.from(value, 'latin1')
    parts.push(Buffer.from([0, ...length(name.length)]), Buffer.from(name, 'latin1'))
    parts.push(Buffer.from(length(bytes.length)), bytes)
  }
  return Buffer.concat(parts)
}

/** A string length without Huffman coding (RFC 7541, 5.1 and 5.2). */
function length(value: number): readonly number[] {
  if (value < 0x7f) return [value]
  const bytes = [0x7f]
  let rest = value - 0x7f
  for (; rest >= 0x80; rest = Math.floor(rest / 0x80)) bytes.push((rest % 0x80) | 0x80)
  return [...bytes, rest]
}

function integer(cursor: Cursor, prefixBits: number): number {
  const mask = (1 << prefixBits) - 1
  let value = byte(cursor) & mask
  if (value < mask) return value
  for (let factor = 1; factor <= 0x20_0000; factor *= 0x80) {
    const next = byte(cursor)
    value += (next & 0x7f) * factor
    if (next < 0x80) return value
  }
  throw new HpackError('integer of too many bytes')
}

function text(cursor: Cursor): string {
  const coded = (cursor.bytes[cursor.at] ?? 0) >= 0x80
  const end = integer(cursor, 7) + cursor.at
  if (end > cursor.bytes.length) throw new HpackError('string beyond its block')
  const bytes = cursor.bytes.subarray(cursor.at, end)
  cursor.at = end
  const decoded = coded ? huffmanText(bytes) : Buffer.from(bytes).toString('latin1')
  if (decoded === undefined) throw new HpackError('string that is no Huffman code')
  return decoded
}

function byte(cursor: Cursor): number {
  const value = cursor.bytes[cursor.at]
  if (value === undefined) throw new HpackError('block ends too early')
  cursor.at++
  return value
}
