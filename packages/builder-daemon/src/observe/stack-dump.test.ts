import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { dumpStacks } from './stack-dump.js'

let directory = ''
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'isula-dump-'))
})
afterEach(() => rmSync(directory, { recursive: true, force: true }))

test('a dump holds the stacks, not the environment, and is the owner’s alone', () => {
  const path = dumpStacks(directory, new Date('2026-01-02T03:04:05.678Z'))
  expect(basename(path)).toBe('stack-2026-01-02T030405.678Z.log')
  expect(statSync(path).mode & 0o7777).toBe(0o600)
  const report = JSON.parse(readFileSync(path, 'utf8'))
  expect(report.javascriptStack.stack.length).toBeGreaterThan(0)
  expect(report.libuv.length).toBeGreaterThan(0)
  expect(report).not.toHaveProperty('environmentVariables')
})

test('the newest five stay, and files of others', () => {
  writeFileSync(join(directory, 'stack-of-cards.log'), '')
  const dumps = Array.from({ length: 7 }, (_, second) =>
    basename(dumpStacks(directory, new Date(Date.UTC(2026, 0, 1, 0, 0, second)))),
  )
  expect(readdirSync(directory).sort()).toEqual([...dumps.slice(2), 'stack-of-cards.log'])
})
