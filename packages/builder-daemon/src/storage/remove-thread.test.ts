import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { getuid } from 'node:process'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { removeTree } from './remove-thread.js'

let base: string
let top: string

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'isula-remove-'))
  top = join(base, 'top')
  mkdirSync(top)
})
afterEach(() => rmSync(base, { recursive: true, force: true }))

test('removes files, directories, links and names that are not UTF-8', () => {
  mkdirSync(join(top, 'a/b'), { recursive: true })
  writeFileSync(join(top, 'a/b/file'), 'x')
  writeFileSync(Buffer.concat([Buffer.from(`${top}/`), Buffer.from([0xff, 0xfe])]), 'x')
  symlinkSync('/', join(top, 'a/root'))
  removeTree(top)
  expect(readdirSync(base)).toEqual([])
})

test('never follows a link out of the tree', () => {
  const outside = join(base, 'outside')
  mkdirSync(outside)
  writeFileSync(join(outside, 'precious'), 'x')
  symlinkSync(outside, join(top, 'link'))
  removeTree(top)
  const topLink = join(base, 'top-link')
  symlinkSync(outside, topLink)
  removeTree(topLink)
  expect(readdirSync(base)).toEqual(['outside'])
  expect(existsSync(join(outside, 'precious'))).toBe(true)
})

test('removes a tree deeper than PATH_MAX', () => {
  // mkdir -p with relative steps, as a RUN can do it: 100 levels of 200 bytes are 20,000 bytes.
  const script = 'for i in $(seq 100); do mkdir "$1" && cd -P "$1" || exit 1; done; echo x >leaf'
  execFileSync('sh', ['-c', script, 'sh', 'd'.repeat(200)], { cwd: top })
  removeTree(top)
  expect(readdirSync(base)).toEqual([])
})

test('removes a directory with many entries', () => {
  for (let index = 0; index < 3000; index++) writeFileSync(join(top, `f${index}`), '')
  removeTree(top)
  expect(readdirSync(base)).toEqual([])
})

test('stops when told to and finishes the next time', () => {
  for (let index = 0; index < 10; index++) writeFileSync(join(top, `f${index}`), '')
  expect(() => removeTree(top, Int32Array.of(1))).toThrow(/left for the next start/)
  expect(readdirSync(top)).toHaveLength(10)
  removeTree(top)
  expect(readdirSync(base)).toEqual([])
})

test('is content with what is already gone', () => {
  removeTree(join(base, 'nothing'))
  expect(readdirSync(base)).toEqual(['top'])
})

test.skipIf(getuid?.() !== 0)('does not remove through a mount (needs root)', () => {
  const outside = join(base, 'outside')
  mkdirSync(outside)
  writeFileSync(join(outside, 'precious'), 'x')
  mkdirSync(join(top, 'mnt point'))
  execFileSync('mount', ['--bind', outside, join(top, 'mnt point')])
  try {
    expect(() => removeTree(top)).toThrow(/is mounted inside it/)
    expect(existsSync(join(outside, 'precious'))).toBe(true)
  } finally {
    execFileSync('umount', [join(top, 'mnt point')])
  }
  removeTree(top)
  expect(readdirSync(base)).toEqual(['outside'])
})
