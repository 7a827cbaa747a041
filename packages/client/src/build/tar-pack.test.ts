import { execFileSync, spawnSync } from 'node:child_process'
import {
  chownSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { packDirectory } from './tar-pack.js'

let root: string
let source: string
let count = 0

beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'client-pack-'))
})
afterAll(() => rmSync(root, { recursive: true, force: true }))
beforeEach(() => {
  source = join(root, String(count++))
  mkdirSync(source)
})

async function pack(ignore: readonly string[] = [], skipped: string[] = []): Promise<Buffer> {
  const parts: Uint8Array[] = []
  for await (const part of packDirectory(source, ignore, (name) => skipped.push(name))) {
    parts.push(part)
  }
  return Buffer.concat(parts)
}

/** Names as GNU tar lists them. */
function names(tar: Buffer): readonly string[] {
  const { stdout, stderr, status } = spawnSync('tar', ['-t', '--quoting-style=literal'], {
    input: tar,
    encoding: 'latin1',
  })
  expect(stderr).toBe('')
  expect(status).toBe(0)
  return stdout.split('\n').slice(0, -1)
}

function unpack(tar: Buffer): string {
  const target = `${source}-unpacked`
  mkdirSync(target)
  execFileSync('tar', ['-xp', '--numeric-owner', '-C', target], { input: tar, stdio: 'pipe' })
  return target
}

test('GNU tar gets back what was packed: content, modes, owners, links and times', async () => {
  mkdirSync(join(source, 'dir/empty'), { recursive: true, mode: 0o750 })
  writeFileSync(join(source, 'dir/file'), 'content')
  writeFileSync(join(source, 'big'), Buffer.alloc(3 * 1024 * 1024 + 7, 'ab'))
  writeFileSync(join(source, 'suid'), '', { mode: 0o755 })
  execFileSync('chmod', ['4755', join(source, 'suid')])
  symlinkSync('../nowhere', join(source, 'dir/link'))
  linkSync(join(source, 'dir/file'), join(source, 'second'))
  chownSync(join(source, 'dir/file'), 3_000_000_000, 2_200_000)
  execFileSync('touch', ['-d', '2001-02-03 04:05:06.123456789Z', join(source, 'big')])
  execFileSync('touch', ['-d', '1960-01-01 00:00:00.5Z', join(source, 'suid')])
  utimesSync(join(source, 'dir'), 5, 7)
  const target = unpack(await pack())
  expect(readdirSync(target).sort()).toEqual(['big', 'dir', 'second', 'suid'])
  expect(readFileSync(join(target, 'big')).equals(readFileSync(join(source, 'big')))).toBe(true)
  expect(readlinkSync(join(target, 'dir/link'))).toBe('../nowhere')
  for (const name of ['big', 'suid', 'dir', 'dir/file', 'dir/empty', 'second']) {
    const [packed, unpacked] = [source, target].map((at) => lstatSync(join(at, name), { bigint: true }))
    for (const key of ['mode', 'uid', 'gid', 'size', 'mtimeNs', 'nlink'] as const) {
      expect([name, key, unpacked?.[key]]).toEqual([name, key, packed?.[key]])
    }
  }
  expect(lstatSync(join(target, 'second')).ino).toBe(lstatSync(join(target, 'dir/file')).ino)
})

test('names are bytes, of any length', async () => {
  const odd = Buffer.concat([Buffer.from(`${source}/caf`), Buffer.from([0xe9, 0x0a, 0xff])])
  writeFileSync(odd, 'x')
  const long = `${'d'.repeat(200)}/${'e'.repeat(200)}`
  mkdirSync(join(source, 'd'.repeat(200)))
  writeFileSync(join(source, long), 'deep')
  writeFileSync(join(source, 'ünïcode'), '')
  symlinkSync('t'.repeat(300), join(source, 'far'))
  const exactly = 'h'.repeat(100)
  writeFileSync(join(source, exactly), '')
  const target = unpack(await pack())
  const listed = readdirSync(target, { encoding: 'latin1' as BufferEncoding }) as string[]
  expect(listed).toContain('caf\xe9\n\xff')
  expect(listed).toContain(Buffer.from('ünïcode').toString('latin1'))
  expect(listed).toContain(exactly)
  expect(readFileSync(join(target, long), 'utf8')).toBe('deep')
  expect(readlinkSync(join(target, 'far'))).toBe('t'.repeat(300))
})

test('the same directory packs to the same bytes, in the order of names', async () => {
  for (const name of ['b', 'a', 'C', 'a.d']) writeFileSync(join(source, name), name)
  const [first, second] = [await pack(), await pack()]
  expect(first.equals(second)).toBe(true)
  expect(names(first)).toEqual(['C', 'a', 'a.d', 'b'])
})

describe('ignore lines', () => {
  test('leave out what they name, and what they except stays', async () => {
    for (const name of ['keep', 'node/deep', 'logs', 'src'])
      mkdirSync(join(source, name), { recursive: true })
    for (const name of ['a.log', 'keep/b.log', 'keep/c.txt', 'node/deep/x', 'node/back', 'logs/1', 'src/s']) {
      writeFileSync(join(source, name), '')
    }
    expect(names(await pack(['**/*.log', 'node', '!node/back', 'logs']))).toEqual([
      'keep/',
      'keep/c.txt',
      'node/back',
      'src/',
      'src/s',
    ])
  })

  test('keep excluded directories from being read at all', async () => {
    const excluded = join(source, 'excluded')
    mkdirSync(excluded)
    writeFileSync(join(excluded, 'inside'), '')
    execFileSync('touch', ['-a', '-d', '2001-01-01Z', excluded])
    expect(names(await pack(['excluded']))).toEqual([])
    expect(lstatSync(excluded).atime.getUTCFullYear()).toBe(2001)
    expect(names(await pack(['other']))).toEqual(['excluded/', 'excluded/inside'])
    expect(lstatSync(excluded).atime.getUTCFullYear()).not.toBe(2001)
  })
})

test('what is no file, directory or link is left out and named', async () => {
  execFileSync('mkfifo', [join(source, 'pipe')])
  writeFileSync(join(source, 'file'), '')
  const skipped: string[] = []
  expect(names(await pack([], skipped))).toEqual(['file'])
  expect(skipped).toEqual(['pipe'])
})

test('a file that shrinks while it is packed is an error that says so', async () => {
  const path = join(source, 'shrinking')
  writeFileSync(path, Buffer.alloc(4 * 1024 * 1024))
  const read = async (): Promise<void> => {
    let bytes = 0
    for await (const part of packDirectory(source, [], () => undefined)) {
      bytes += part.length
      if (bytes < 2 * 1024 * 1024) truncateSync(path, 1024 * 1024)
    }
  }
  const error: unknown = await read().catch((reason: unknown) => reason)
  expect(isBuilderError(error, 'ISB_CONTEXT_CHANGED') && error.message).toBe(
    'shrinking became shorter while it was read',
  )
})

test('a file that vanishes is an error that names it', async () => {
  for (const name of ['a', 'b']) writeFileSync(join(source, name), '')
  const read = async (): Promise<void> => {
    for await (const _ of packDirectory(source, [], () => undefined)) {
      rmSync(join(source, 'b'), { force: true })
    }
  }
  const error: unknown = await read().catch((reason: unknown) => reason)
  expect(isBuilderError(error, 'ISB_PATH_NOT_FOUND') && error.message).toBe(
    'lstat b: no such file or directory',
  )
})
