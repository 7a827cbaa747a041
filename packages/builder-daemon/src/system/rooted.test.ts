import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { AT_FDCWD } from './libc.js'
import {
  lastOf,
  lstatCanonical,
  openByWalking,
  openCanonical,
  openInRoot,
  openRegularInRoot,
  parentOf,
  readInRoot,
  readlinkInRoot,
  resolveInRoot,
  statInRoot,
} from './rooted.js'
import { mknodat, O_CREAT, O_NOFOLLOW, O_PATH, O_RDONLY, O_RDWR, S_IFIFO } from './syscalls.js'
import { hasErrno } from './system-error.js'

let base = ''
let root = ''
let rootFd = -1

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'isula-build-rooted-'))
  root = join(base, 'root')
  mkdirSync(join(root, 'dir/sub'), { recursive: true })
  writeFileSync(join(base, 'secret'), 'secret')
  writeFileSync(join(root, 'secret'), 'inside')
  writeFileSync(join(root, 'dir/file'), 'file')
  symlinkSync(join(base, 'secret'), join(root, 'absolute'))
  symlinkSync('../../../../../../../secret', join(root, 'dir/climb'))
  symlinkSync('/dir', join(root, 'to-dir'))
  symlinkSync('to-dir/sub/../file', join(root, 'chain'))
  symlinkSync('loop', join(root, 'loop'))
  symlinkSync('/new/../missing/x', join(root, 'dangling'))
  symlinkSync('/proc/self/root', join(root, 'magic'))
  rootFd = openSync(root, 'r')
})
afterEach(() => {
  closeSync(rootFd)
  rmSync(base, { recursive: true, force: true })
})

describe.each([
  ['with openat2', openInRoot],
  ['by walking', openByWalking],
])('opening %s', (_, open) => {
  const content = (path: string): string => {
    const fd = open(rootFd, path, O_RDONLY)
    try {
      return readFileSync(fd, 'utf8')
    } finally {
      closeSync(fd)
    }
  }
  const code = (path: string, flags = O_RDONLY): string | undefined => {
    try {
      closeSync(open(rootFd, path, flags))
      return undefined
    } catch (error) {
      return error instanceof Error && 'code' in error ? String(error.code) : 'none'
    }
  }

  test('stays inside whatever the path says', () => {
    expect(content('/secret')).toBe('inside')
    expect(content('../../../secret')).toBe('inside')
    expect(content('dir/climb')).toBe('inside')
    expect(content('to-dir/file')).toBe('file')
    expect(content('chain')).toBe('file')
    expect(code('absolute')).toBe('ENOENT')
    expect(code('magic/etc/passwd')).toBe('ENOENT')
    expect(code('loop')).toBe('ELOOP')
    expect(code('dir/file/x')).toBe('ENOTDIR')
    expect(code('chain', O_RDONLY | O_NOFOLLOW)).toBe('ELOOP')
    expect(code('chain', O_PATH | O_NOFOLLOW)).toBeUndefined()
    expect(code('', O_RDONLY)).toBeUndefined()
  })

  test('a new file lands inside', () => {
    closeSync(open(rootFd, 'to-dir/../dir/new', O_RDWR | O_CREAT, 0o600))
    expect(statInRoot(rootFd, 'dir/new', { followLast: false })?.mode).toBe(0o600)
  })
})

test('procfs magic links are refused', () => {
  const proc = openSync('/proc', 'r')
  try {
    for (const path of ['self/root', 'self/cwd', `self/fd/${rootFd}`]) {
      expect(() => openInRoot(proc, `${path}/x`, O_RDONLY)).toThrowError(
        expect.objectContaining({ code: 'ELOOP' }),
      )
    }
  } finally {
    closeSync(proc)
  }
})

test('resolving gives the path without links, missing parts as written', () => {
  const resolve = (path: string, followLast = true): unknown => {
    const { path: found, stat } = resolveInRoot(rootFd, path, { followLast })
    return [found, stat?.type]
  }
  expect(resolve('')).toEqual(['', 'directory'])
  expect(resolve('/../..')).toEqual(['', 'directory'])
  expect(resolve('to-dir')).toEqual(['dir', 'directory'])
  expect(resolve('to-dir', false)).toEqual(['to-dir', 'symlink'])
  expect(resolve('to-dir/sub/..')).toEqual(['dir', 'directory'])
  expect(resolve('chain')).toEqual(['dir/file', 'file'])
  expect(resolve('to-dir/none/../file')).toEqual(['dir/file', 'file'])
  expect(resolve('to-dir/none/x')).toEqual(['dir/none/x', undefined])
  expect(resolve('dangling')).toEqual(['missing/x', undefined])
  expect(resolve('dir/climb')).toEqual(['secret', 'file'])
  expect(() => resolve('dir/file/..')).toThrowError(
    expect.objectContaining({ code: 'ENOTDIR', path: 'dir/file' }),
  )
  expect(() => resolve('loop')).toThrowError(expect.objectContaining({ code: 'ELOOP' }))
})

test('only regular files are opened for reading, FIFOs are not even tried', () => {
  mknodat(AT_FDCWD, join(root, 'fifo'), S_IFIFO | 0o600, 0, 0)
  for (const path of ['fifo', 'dir']) {
    expect(() => openRegularInRoot(rootFd, path)).toThrowError(expect.objectContaining({ code: 'ENXIO' }))
  }
  expect(openRegularInRoot(rootFd, 'none')).toBeUndefined()
  expect(openRegularInRoot(rootFd, 'secret/below')).toBeUndefined()
  expect(readInRoot(rootFd, 'chain', 4)?.toString()).toBe('file')
  expect(() => readInRoot(rootFd, 'chain', 3)).toThrowError(expect.objectContaining({ code: 'EFBIG' }))
  expect(readlinkInRoot(rootFd, 'to-dir')).toBe('/dir')
})

test('canonical paths are never followed', () => {
  expect(lstatCanonical(rootFd, 'dir/file')?.type).toBe('file')
  expect(lstatCanonical(rootFd, 'to-dir/file')).toBeUndefined()
  expect(lstatCanonical(rootFd, 'chain')?.type).toBe('symlink')
  expect(() => openCanonical(rootFd, 'to-dir')).toThrowError()
  closeSync(openCanonical(rootFd, 'dir/sub'))
  expect([parentOf('a/b/c'), lastOf('a/b/c'), parentOf('a'), lastOf('a')]).toEqual(['a/b', 'c', '', 'a'])
})

test('a directory swapped for a link while it is resolved never leads outside', async () => {
  mkdirSync(join(base, 'outside'))
  writeFileSync(join(base, 'outside/f'), 'outside')
  mkdirSync(join(root, 'swap'))
  writeFileSync(join(root, 'swap/f'), 'inside')
  symlinkSync(join(base, 'outside'), join(root, 'evil'))
  const stop = new Int32Array(new SharedArrayBuffer(4))
  const swapper = new Worker(
    `const { workerData: { stop, root } } = require('node:worker_threads')
     const { renameSync } = require('node:fs')
     while (Atomics.load(stop, 0) === 0) {
       renameSync(root + '/swap', root + '/aside'); renameSync(root + '/evil', root + '/swap')
       renameSync(root + '/swap', root + '/evil'); renameSync(root + '/aside', root + '/swap')
     }`,
    { eval: true, workerData: { stop, root } },
  )
  try {
    await new Promise((resolve) => swapper.once('online', resolve))
    const seen = new Set<string>()
    for (const open of [openInRoot, openByWalking]) {
      for (let attempt = 0; attempt < 3000; attempt += 1) {
        try {
          const fd = open(rootFd, 'swap/f', O_RDONLY)
          seen.add(readFileSync(fd, 'utf8'))
          closeSync(fd)
        } catch (error) {
          if (!hasErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP')) throw error
        }
      }
    }
    expect([...seen]).toEqual(['inside'])
  } finally {
    Atomics.store(stop, 0, 1)
    await new Promise((resolve) => swapper.once('exit', resolve))
  }
  expect(() => renameSync(join(root, 'swap'), join(root, 'swap'))).not.toThrow()
})
