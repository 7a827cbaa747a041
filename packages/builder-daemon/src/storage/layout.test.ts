import { chmodSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { layoutOf, makeDataRoot } from './layout.js'

let directory: string
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'isula-layout-'))
})
afterEach(() => rmSync(directory, { recursive: true, force: true }))

const modeOf = (path: string): number => statSync(path).mode & 0o777

test('makes a data root that only root can enter', () => {
  const root = join(directory, 'a/b')
  makeDataRoot(layoutOf(root))
  expect(modeOf(root)).toBe(0o700)
})

test('refuses a directory with content of others, and leaves its mode alone', () => {
  writeFileSync(join(directory, 'somebody'), '')
  chmodSync(directory, 0o755)
  expect(() => makeDataRoot(layoutOf(directory))).toThrow(/not empty and holds no store/)
  expect(modeOf(directory)).toBe(0o755)
})

test.each(['layout-version', 'lock', 'storage', 'lost+found'])(
  'takes over a directory that holds %s',
  (name) => {
    mkdirSync(join(directory, name))
    makeDataRoot(layoutOf(directory))
    expect(modeOf(directory)).toBe(0o700)
  },
)
