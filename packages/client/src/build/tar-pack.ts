import { type BigIntStats, constants } from 'node:fs'
import { lstat, open, readdir, readlink } from 'node:fs/promises'
import { compileIgnore } from '@isula-build/shared/dockerfile/ignore.js'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { fileError } from '../file-error.js'

const block = 512
const chunkSize = 1024 * 1024

/** Names are bytes (latin1) throughout. */
interface Entry {
  readonly name: string
  readonly type: '0' | '1' | '2' | '5'
  readonly stat: BigIntStats
  readonly link: string
}

/**
 * Packs a directory as a tar stream, with the rights of whoever runs this: what the ignore lines exclude is
 * never read; sockets, FIFOs and devices are left out and named to `onSkipped`.
 */
export async function* packDirectory(
  root: string,
  ignore: readonly string[],
  onSkipped: (name: string) => void,
): AsyncIterable<Uint8Array> {
  const matcher = compileIgnore(ignore)
  const links = new Map<string, string>()

  /** A system call on a member; what it fails with names the member. */
  async function of<T>(name: string, call: (path: Buffer) => Promise<T>): Promise<T> {
    try {
      return await call(bytesOf(`${root}/${name}`))
    } catch (error) {
      throw fileError(error, shown(name === '' ? root : name))
    }
  }

  async function* walk(directory: string): AsyncIterable<Uint8Array> {
    const names = await of(directory, (path) => readdir(path, { encoding: 'latin1' as BufferEncoding }))
    for (const base of (names as string[]).sort()) {
      const name = directory === '' ? base : `${directory}/${base}`
      const stat = await of(name, (path) => lstat(path, { bigint: true }))
      const excluded = matcher.match(name, stat.isDirectory()).excluded
      if (stat.isDirectory()) {
        if (!excluded) yield headers({ name: `${name}/`, type: '5', stat, link: '' })
        if (!excluded || matcher.mayDescend(name)) yield* walk(name)
      } else if (!excluded) yield* packEntry(name, stat)
    }
  }

  async function* packEntry(name: string, stat: BigIntStats): AsyncIterable<Uint8Array> {
    if (stat.isSymbolicLink()) {
      const link = await of(name, (path) => readlink(path, { encoding: 'latin1' as BufferEncoding }))
      yield headers({ name, type: '2', stat, link })
      return
    }
    if (!stat.isFile()) {
      onSkipped(shown(name))
      return
    }
    const identity = `${stat.dev}:${stat.ino}`
    const first = stat.nlink > 1n ? links.get(identity) : undefined
    if (first !== undefined) {
      yield headers({ name, type: '1', stat, link: first })
      return
    }
    if (stat.nlink > 1n) links.set(identity, name)
    const file = await of(name, (path) => open(path, constants.O_RDONLY | constants.O_NOFOLLOW))
    try {
      const opened = await file.stat({ bigint: true })
      yield headers({ name, type: '0', stat: opened, link: '' })
      yield* contentOf(file, Number(opened.size), name)
    } finally {
      await file.close()
    }
  }

  yield* walk('')
  yield Buffer.alloc(2 * block)
}

async function* contentOf(
  file: Awaited<ReturnType<typeof open>>,
  size: number,
  name: string,
): AsyncIterable<Uint8Array> {
  let left = size
  while (left > 0) {
    const { bytesRead, buffer } = await file.read(Buffer.alloc(Math.min(left, chunkSize)), 0)
    if (bytesRead === 0)
      throw new BuilderError('ISB_CONTEXT_CHANGED', `${shown(name)} became shorter while it was read`)
    left -= bytesRead
    yield buffer.subarray(0, bytesRead)
  }
  const padding = (block - (size % block)) % block
  if (padding > 0) yield Buffer.alloc(padding)
}

function shown(latin1: string): string {
  return bytesOf(latin1).toString('utf8')
}

function bytesOf(latin1: string): Buffer {
  return Buffer.from(latin1, 'latin1')
}

/** A ustar header, after a PAX one where ustar has no room (POSIX pax Interchange Format). */
function headers({ name, type, stat, link }: Entry): Buffer {
  const size = type === '0' ? Number(stat.size) : 0
  const records = [
    ...(fits(name, 100) ? [] : [record('path', name)]),
    ...(fits(link, 100) ? [] : [record('linkpath', link)]),
    ...(size < 8 ** 11 ? [] : [record('size', String(size))]),
    ...(Number(stat.uid) < 8 ** 7 ? [] : [record('uid', String(stat.uid))]),
    ...(Number(stat.gid) < 8 ** 7 ? [] : [record('gid', String(stat.gid))]),
    ...(fitsTime(stat.mtimeNs) ? [] : [record('mtime', decimalTime(stat.mtimeNs))]),
  ].join('')
  const main = header(name.slice(0, 100), type, stat, size, link.slice(0, 100))
  if (records === '') return main
  const body = Buffer.alloc(Math.ceil(records.length / block) * block)
  body.write(records, 'latin1')
  return Buffer.concat([header('PaxHeader', 'x', stat, records.length, ''), body, main])
}

function fits(text: string, limit: number): boolean {
  // Bytes above ASCII have no encoding in ustar; a PAX record carries them unchanged.
  return text.length <= limit && !/[\x80-\xff]/.test(text)
}

function fitsTime(ns: bigint): boolean {
  return ns % 1_000_000_000n === 0n && ns >= 0n && ns / 1_000_000_000n < 8n ** 11n
}

function decimalTime(ns: bigint): string {
  const size = ns < 0n ? -ns : ns
  return `${ns < 0n ? '-' : ''}${size / 1_000_000_000n}.${String(size % 1_000_000_000n).padStart(9, '0')}`
}

/** `LENGTH key=value\n`, where the length counts itself. */
function record(key: string, value: string): string {
  const rest = ` ${key}=${value}\n`
  let length = rest.length + 1
  while (`${length}${rest}`.length !== length) length = `${length}${rest}`.length
  return `${length}${rest}`
}

function header(name: string, type: string, stat: BigIntStats, size: number, link: string): Buffer {
  const bytes = Buffer.alloc(block)
  const octal = (value: number, at: number, length: number): void => {
    const digits = Math.max(0, value).toString(8)
    bytes.write((digits.length < length ? digits : '0').padStart(length - 1, '0'), at, 'latin1')
  }
  bytes.write(name, 0, 'latin1')
  octal(Number(stat.mode & 0o7777n), 100, 8)
  octal(Number(stat.uid), 108, 8)
  octal(Number(stat.gid), 116, 8)
  octal(size, 124, 12)
  octal(Number(stat.mtimeNs / 1_000_000_000n), 136, 12)
  bytes.write('        ', 148, 'latin1')
  bytes.write(type, 156, 'latin1')
  bytes.write(link, 157, 'latin1')
  bytes.write('ustar\x0000', 257, 'latin1')
  const sum = bytes.reduce((total, byte) => total + byte, 0)
  bytes.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1')
  return bytes
}
