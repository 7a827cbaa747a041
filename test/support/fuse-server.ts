import { readSync, writeSync } from 'node:fs'
import { workerData } from 'node:worker_threads'

/**
 * A thread that serves a small FUSE file system on an open /dev/fuse (Linux, include/uapi/linux/fuse.h):
 * `file` has 300000 bytes, reading `hang` and looking up `stuck` never end.
 */
const { fd } = workerData as { readonly fd: number }

const content = Buffer.alloc(300_000, 'fuse!')
const names: Readonly<Record<string, bigint>> = { file: 2n, hang: 3n }
const created = 4n
const ENOENT = 2
const ENOSYS = 38

function attributes(node: bigint): Buffer {
  const attr = Buffer.alloc(88)
  const isRoot = node === 1n
  attr.writeBigUInt64LE(node, 0)
  attr.writeBigUInt64LE(isRoot || node === created ? 0n : BigInt(content.length), 8)
  attr.writeBigUInt64LE(1000n, 32)
  attr.writeUInt32LE(isRoot ? 0o40777 : 0o100644, 60)
  attr.writeUInt32LE(1, 64)
  attr.writeUInt32LE(4096, 80)
  return attr
}

function entry(node: bigint): Buffer {
  const head = Buffer.alloc(40)
  head.writeBigUInt64LE(node, 0)
  return Buffer.concat([head, attributes(node)])
}

function directory(offset: bigint): Buffer {
  if (offset !== 0n) return Buffer.alloc(0)
  return Buffer.concat(
    Object.entries(names).map(([name, node], index) => {
      const one = Buffer.alloc((24 + name.length + 7) & ~7)
      one.writeBigUInt64LE(node, 0)
      one.writeBigUInt64LE(BigInt(index + 1), 8)
      one.writeUInt32LE(name.length, 16)
      one.writeUInt32LE(8, 20)
      one.write(name, 24)
      return one
    }),
  )
}

function init(): Buffer {
  const out = Buffer.alloc(64)
  out.writeUInt32LE(7, 0)
  out.writeUInt32LE(31, 4)
  out.writeUInt32LE(65536, 8)
  out.writeUInt32LE(65536, 20)
  return out
}

/** The answer, the number of an error, or undefined for silence. */
function answer(opcode: number, node: bigint, body: Buffer): Buffer | number | undefined {
  switch (opcode) {
    case 1: {
      const name = body.toString('latin1', 0, body.indexOf(0))
      if (name === 'stuck') return undefined
      const found = names[name]
      return found === undefined ? ENOENT : entry(found)
    }
    case 3:
      return Buffer.concat([Buffer.alloc(16), attributes(node)])
    case 14:
    case 27:
      return Buffer.alloc(16)
    case 15: {
      if (node === 3n) return undefined
      const offset = Number(body.readBigUInt64LE(8))
      return content.subarray(offset, offset + body.readUInt32LE(16))
    }
    case 17:
      return Buffer.alloc(80)
    case 26:
      return init()
    case 28:
      return directory(body.readBigUInt64LE(8))
    case 35:
      return Buffer.concat([entry(created), Buffer.alloc(16)])
    case 4:
      return Buffer.concat([Buffer.alloc(16), attributes(node)])
    case 10:
    case 18:
    case 25:
    case 29:
      return Buffer.alloc(0)
    case 2:
    case 36:
    case 42:
      return undefined
    default:
      return ENOSYS
  }
}

const request = Buffer.alloc(1 << 18)
for (;;) {
  let length: number
  try {
    length = readSync(fd, request, 0, request.length, null)
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    // ENODEV is the end of the mount; the others mean that a request was withdrawn.
    if (code === 'ENODEV') break
    if (code === 'ENOENT' || code === 'EINTR' || code === 'EAGAIN') continue
    throw error
  }
  const unique = request.readBigUInt64LE(8)
  const found = answer(request.readUInt32LE(4), request.readBigUInt64LE(16), request.subarray(40, length))
  if (found === undefined) continue
  const data = typeof found === 'number' ? Buffer.alloc(0) : found
  const head = Buffer.alloc(16)
  head.writeUInt32LE(16 + data.length, 0)
  head.writeInt32LE(typeof found === 'number' ? -found : 0, 4)
  head.writeBigUInt64LE(unique, 8)
  try {
    writeSync(fd, Buffer.concat([head, data]))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
}
