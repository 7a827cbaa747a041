import { execFileSync } from 'node:child_process'
import {
  closeSync,
  copyFileSync,
  fchmodSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { createSealedPrograms } from './sealed-programs.js'

let directory: string
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'sealed-programs-'))
})
afterEach(() => rmSync(directory, { recursive: true, force: true }))

const refuse = (path: string): never => {
  throw new Error(`${path} could not be copied`)
}

test('runc is started from one copy until another runc is in its place', () => {
  const path = join(directory, 'runc')
  copyFileSync('/bin/true', path)
  const programs = createSealedPrograms(refuse)
  const copy = programs.pathOf(path)
  expect(copy).toMatch(/^\/proc\/\d+\/fd\/\d+$/)
  expect(programs.pathOf(path)).toBe(copy)
  expect(readFileSync(copy).equals(readFileSync('/bin/true'))).toBe(true)
  copyFileSync('/bin/false', `${path}.new`)
  renameSync(`${path}.new`, path)
  expect(readFileSync(programs.pathOf(path)).equals(readFileSync('/bin/false'))).toBe(true)
})

test('a copy that a container took the mode of is replaced', () => {
  const path = join(directory, 'runc')
  copyFileSync('/bin/echo', path)
  const programs = createSealedPrograms(refuse)
  const copy = programs.pathOf(path)
  const fd = openSync(copy, 'r')
  try {
    fchmodSync(fd, 0)
  } finally {
    closeSync(fd)
  }
  expect(() => execFileSync(copy, ['here'])).toThrow('EACCES')
  expect(execFileSync(programs.pathOf(path), ['here']).toString()).toBe('here\n')
})

test('other runtimes, and a runc that is not there, are started from where they are', () => {
  const programs = createSealedPrograms(refuse)
  const crun = join(directory, 'crun')
  writeFileSync(crun, '')
  expect(programs.pathOf(crun)).toBe(crun)
  expect(programs.pathOf('/no/such/runc')).toBe('/no/such/runc')
})

test('a runc that cannot be copied is started from where it is, and told', () => {
  const path = join(directory, 'runc')
  mkdirSync(path)
  const told: string[] = []
  const programs = createSealedPrograms((at) => told.push(at))
  expect(programs.pathOf(path)).toBe(path)
  expect(programs.pathOf(path)).toBe(path)
  expect(told).toEqual([path])
})
