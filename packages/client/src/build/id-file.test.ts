import {
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { checkIdFile, writeIdFile } from './id-file.js'

let root: string
const id = 'a'.repeat(64)

beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'client-id-'))
})
afterAll(() => rmSync(root, { recursive: true, force: true }))

test('the ID replaces what the file held, and nothing else is left', () => {
  const path = join(root, 'file')
  writeFileSync(path, 'x'.repeat(1000))
  checkIdFile(path)
  writeIdFile(path, id)
  expect(readFileSync(path, 'utf8')).toBe(id)
  expect(readdirSync(root)).toEqual(['file'])
})

test('a device stays a device', () => {
  const path = join(root, 'null')
  symlinkSync('/dev/null', path)
  checkIdFile(path)
  writeIdFile(path, id)
  expect(lstatSync(path).isSymbolicLink()).toBe(true)
  expect(lstatSync('/dev/null').isCharacterDevice()).toBe(true)
})

test('a place where nothing can be written is found before the build', () => {
  expect(() => checkIdFile(join(root, 'missing/file'))).toThrow(
    /^error runBuild: cannot write the image ID: access .*missing\/file: no such file or directory$/,
  )
  mkdirSync(join(root, 'directory'))
  expect(() => checkIdFile(join(root, 'directory'))).toThrow('is a directory')
  expect(() => writeIdFile(join(root, 'missing/file'), id)).toThrow('no such file or directory')
})
