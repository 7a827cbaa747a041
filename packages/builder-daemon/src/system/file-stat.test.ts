import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { readDirectory } from './file-stat.js'

test('a directory with more entries than a thread can hold is refused', () => {
  const directory = mkdtempSync(join(tmpdir(), 'file-stat-'))
  const names = ['a', 'b', 'c']
  for (const name of names) writeFileSync(join(directory, name), '')
  const fd = openSync(directory, 'r')
  try {
    expect(readDirectory(fd, 3).sort()).toEqual(names)
    expect(() => readDirectory(fd, 2)).toThrow(expect.objectContaining({ code: 'ISB_LIMIT_EXCEEDED' }))
  } finally {
    closeSync(fd)
    rmSync(directory, { recursive: true })
  }
})
