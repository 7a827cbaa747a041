import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { leaveCleanMark, takeCleanMark } from './clean-mark.js'
import { type Layout, layoutOf } from './layout.js'

let layout: Layout
/** Times are set in milliseconds, and kept in nanoseconds. */
const wholeSecond = 1_700_000_000

beforeEach(() => {
  layout = layoutOf(mkdtempSync(join(tmpdir(), 'isula-clean-')))
  mkdirSync(layout.databaseDirectory)
  writeFileSync(layout.database, 'a database')
  utimesSync(layout.database, wholeSecond, wholeSecond)
})
afterEach(() => rmSync(layout.dataRoot, { recursive: true }))

test('a database that was marked and left alone is clean, once', () => {
  leaveCleanMark(layout)
  expect(takeCleanMark(layout)).toBe(true)
  expect(takeCleanMark(layout)).toBe(false)
  expect(readdirSync(layout.databaseDirectory)).toEqual(['store.sqlite'])
})

test('a log in which nothing is makes no difference', () => {
  writeFileSync(`${layout.database}-wal`, '')
  leaveCleanMark(layout)
  expect(takeCleanMark(layout)).toBe(true)
})

test('one without a mark is not', () => {
  expect(takeCleanMark(layout)).toBe(false)
})

test.each<[string, () => void | Promise<void>]>([
  [
    'written to, with its time set back',
    async () => {
      // So that the status is changed at another time than before.
      await setTimeout(20)
      writeFileSync(layout.database, 'a_database')
      utimesSync(layout.database, wholeSecond, wholeSecond)
      expect(statSync(layout.database, { bigint: true }).mtimeNs).toBe(BigInt(wholeSecond) * 10n ** 9n)
    },
  ],
  [
    'replaced by a copy',
    () => {
      cpSync(layout.database, `${layout.database}.copy`, { preserveTimestamps: true })
      renameSync(`${layout.database}.copy`, layout.database)
    },
  ],
  ['gone', () => rmSync(layout.database)],
  ['beside a log', () => writeFileSync(`${layout.database}-wal`, 'x')],
  ['beside what should be a log', () => mkdirSync(`${layout.database}-wal`)],
  ['marked by something unreadable', () => writeFileSync(join(layout.databaseDirectory, 'clean'), '1 2 3')],
  [
    'marked by a directory',
    () => {
      rmSync(join(layout.databaseDirectory, 'clean'))
      mkdirSync(join(layout.databaseDirectory, 'clean/below'), { recursive: true })
    },
  ],
])('one that was marked and is %s is not, and the mark goes', async (_how, change) => {
  leaveCleanMark(layout)
  await change()
  expect(takeCleanMark(layout)).toBe(false)
  expect(readdirSync(layout.databaseDirectory)).not.toContain('clean')
})

test.each<[string, () => void]>([
  ['that is not there', () => rmSync(layout.database)],
  ['with a log that was not replayed', () => writeFileSync(`${layout.database}-wal`, 'x')],
])('a database %s is not marked', (_what, change) => {
  change()
  leaveCleanMark(layout)
  expect(readdirSync(layout.databaseDirectory)).not.toContain('clean')
})
