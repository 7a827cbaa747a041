import { gzipSync } from 'node:zlib'

const mebibyte = 1 << 20

/** `head` and then that many MiB of zeros as gzip: one small member again and again. */
export function gzipBomb(head: Buffer, mebibytes: number): Buffer {
  const zeros = gzipSync(Buffer.alloc(64 * mebibyte), { level: 9 })
  return Buffer.concat([gzipSync(head), ...Array.from({ length: mebibytes / 64 }, () => zeros)])
}

/** One zstd frame (RFC 8878) with a window of 2^`windowLog`, made of blocks that each say "128 KiB of zero". */
export function zstdBomb(head: Buffer, mebibytes: number, windowLog: number): Buffer {
  const frame = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x00, (windowLog - 10) << 3])
  const block = (type: 0 | 1, size: number, last: boolean): Buffer => {
    const header = Buffer.alloc(3)
    header.writeUIntLE((size << 3) | (type << 1) | (last ? 1 : 0), 0, 3)
    return header
  }
  const zeros = Buffer.concat([block(1, 128 * 1024, false), Buffer.alloc(1)])
  return Buffer.concat([
    frame,
    block(0, head.length, false),
    head,
    ...Array.from({ length: mebibytes * 8 }, () => zeros),
    block(0, 0, true),
  ])
}
