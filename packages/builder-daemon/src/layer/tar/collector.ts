import { createHash } from 'node:crypto'
import { type DiffId, digestFromHex } from '@isula-build/shared/oci/digest.js'

/** Puts small pieces together, hashes all bytes and hands them on in chunks of up to 1 MiB. */
export interface Collector {
  append(bytes: Buffer): void
  zeros(count: number): void
  /** Takes up to `limit` bytes straight from `read`; gives what it returned. */
  fill(limit: number, read: (target: Buffer, offset: number, length: number) => number): number
  /** `count` bytes to be written at the returned place, before any other call. */
  reserve(count: number): { readonly buffer: Buffer; readonly at: number }
  finish(): { readonly diffId: DiffId; readonly tarSize: number }
}

const BUFFER_BYTES = 1 << 20
/** Pieces from here on are handed on where they lie instead of being copied. */
const DIRECT_BYTES = 1 << 16

/** What `output` is given is valid during the call only. */
export function createCollector(output: ((bytes: Buffer) => void) | undefined): Collector {
  const buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES)
  const hash = createHash('sha256')
  const reserved = { buffer, at: 0 }
  let used = 0
  let written = 0

  function emit(bytes: Buffer): void {
    hash.update(bytes)
    written += bytes.length
    output?.(bytes)
  }
  function flush(): void {
    if (used > 0) emit(used === buffer.length ? buffer : buffer.subarray(0, used))
    used = 0
  }
  function room(count: number): void {
    if (used + count > buffer.length) flush()
  }
  return {
    append(bytes) {
      if (bytes.length >= DIRECT_BYTES) {
        flush()
        emit(bytes)
        return
      }
      room(bytes.length)
      bytes.copy(buffer, used)
      used += bytes.length
    },
    zeros(count) {
      room(count)
      buffer.fill(0, used, used + count)
      used += count
    },
    fill(limit, read) {
      room(1)
      const count = read(buffer, used, Math.min(limit, buffer.length - used))
      used += count
      return count
    },
    reserve(count) {
      room(count)
      reserved.at = used
      used += count
      return reserved
    },
    finish() {
      flush()
      return { diffId: digestFromHex(hash.digest('hex')) as DiffId, tarSize: written }
    },
  }
}
