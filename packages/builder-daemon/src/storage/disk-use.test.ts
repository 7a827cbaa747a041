import { execFileSync } from 'node:child_process'
import { linkSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { diskUse } from './disk-use.js'

let root = ''
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'isula-disk-use-'))
})
afterEach(() => rmSync(root, { recursive: true, force: true }))

const du = (path: string): number =>
  Number(execFileSync('du', ['-s', '--block-size=1', path], { encoding: 'utf8' }).split('\t')[0])

test('counts what du counts, whatever the names, and follows no links', () => {
  mkdirSync(join(root, 'a/b'), { recursive: true })
  writeFileSync(Buffer.concat([Buffer.from(`${root}/a/`), Buffer.from([0xff, 0x0a])]), 'x'.repeat(10_000))
  writeFileSync(join(root, 'a/b/c'), Buffer.alloc(1_000_000))
  symlinkSync('/usr', join(root, 'a/link'))
  expect(diskUse(root)).toBe(du(root))
  expect(diskUse(join(root, 'a/b/c'))).toBe(du(join(root, 'a/b/c')))
})

test('counts of a file with two links the half for each', () => {
  for (const name of ['one', 'other']) mkdirSync(join(root, name))
  writeFileSync(join(root, 'one/f'), Buffer.alloc(1 << 20, 1))
  linkSync(join(root, 'one/f'), join(root, 'other/f'))
  const both = diskUse(join(root, 'one')) + diskUse(join(root, 'other'))
  expect(both).toBe(du(root) - (diskUse(root) - both))
  expect(diskUse(join(root, 'one'))).toBeGreaterThanOrEqual(1 << 19)
  expect(diskUse(join(root, 'one'))).toBeLessThan(1 << 20)
})

test('is 0 for what is not there, and ends when it is told to', () => {
  expect(diskUse(join(root, 'missing'))).toBe(0)
  expect(() => diskUse(root, new Int32Array([1]))).toThrow('is not measured')
})
