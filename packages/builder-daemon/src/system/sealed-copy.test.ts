import { execFileSync } from 'node:child_process'
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { sealedCopy } from './sealed-copy.js'

test('a sealed copy is the program, can be run and cannot be written', () => {
  const copy = sealedCopy('/bin/echo', 'echo') ?? Number.NaN
  const path = `/proc/${process.pid}/fd/${copy}`
  try {
    expect(readFileSync(path).equals(readFileSync('/bin/echo'))).toBe(true)
    expect(execFileSync(path, ['here']).toString()).toBe('here\n')
    expect(() => writeSync(copy, 'x', 0)).toThrow('EPERM')
    const again = openSync(path, 'r+')
    try {
      expect(() => writeSync(again, 'x', 0)).toThrow('EPERM')
    } finally {
      closeSync(again)
    }
    expect(() => writeFileSync(path, '')).toThrow('EPERM')
  } finally {
    closeSync(copy)
  }
})

test('files of several chunks are copied whole, and a missing one is named', () => {
  const directory = mkdtempSync(join(tmpdir(), 'sealed-copy-'))
  try {
    const path = join(directory, 'large')
    const content = Buffer.alloc(2_500_000, 'abc')
    writeFileSync(path, content)
    const copy = sealedCopy(path, 'large') ?? Number.NaN
    try {
      expect(readFileSync(`/proc/self/fd/${copy}`).equals(content)).toBe(true)
    } finally {
      closeSync(copy)
    }
    expect(() => sealedCopy(join(directory, 'nothing'), 'nothing')).toThrow('ENOENT')
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
})
