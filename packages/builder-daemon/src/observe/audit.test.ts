import { execFileSync } from 'node:child_process'
import {
  appendFileSync,
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { AuditEntry } from '../ports/audit.js'
import type { Logger } from '../ports/logger.js'
import { type AuditLogOptions, openAuditLog } from './audit.js'

const isRoot = process.getuid?.() === 0
let directory = ''
let path = ''
let told: { readonly event: string; readonly fields: Record<string, unknown> | undefined }[] = []
const tell = (event: string, fields?: Record<string, unknown>): void => {
  told.push({ event, fields })
}
const log: Logger = { debug: tell, info: tell, warn: tell, error: tell }

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'isula-audit-'))
  path = join(directory, 'audit.log')
  told = []
})
afterEach(() => rmSync(directory, { recursive: true, force: true }))

const open = (options: Partial<AuditLogOptions> = {}) =>
  openAuditLog({ path, clock: { now: () => 0 }, log, retryMs: 10, ...options })

const entry = (connection: number): AuditEntry => ({
  ...{ uid: 1001, gid: 100, pid: 7, exe: '/usr/bin/node', connection },
  ...{ service: 's', method: 'm', outcome: 'ok', ms: 1 },
})

const lines = (file = path): readonly Record<string, unknown>[] =>
  (existsSync(file) ? readFileSync(file, 'utf8') : '')
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line))

const connections = (file = path) => lines(file).map(({ connection }) => connection)
const numbers = (from: number, to: number) => Array.from({ length: to - from }, (_, index) => from + index)

async function until(holds: () => boolean): Promise<void> {
  for (let round = 0; !holds(); round++) {
    if (round > 500) throw new Error('it does not happen')
    await sleep(10)
  }
}

test('lines are appended in order to a file that only its owner reads', async () => {
  writeFileSync(path, '{"connection":-1}\n', { mode: 0o600 })
  const audit = await open()
  for (const number of numbers(0, 5000)) audit.write(entry(number))
  await audit[Symbol.asyncDispose]()
  expect(connections()).toEqual(numbers(-1, 5000))
  rmSync(path)
  await (await open())[Symbol.asyncDispose]()
  expect(statSync(path).mode & 0o777).toBe(0o600)
  expect(told).toEqual([])
})

test('nobody else may write to it, who reads it is left as it was', async () => {
  writeFileSync(path, '')
  chmodSync(path, 0o666)
  await (await open())[Symbol.asyncDispose]()
  expect(statSync(path).mode & 0o777).toBe(0o644)
})

test('after a rotation by renaming, lines go to a new file and none is lost or split', async () => {
  await using audit = await open()
  for (let round = 0; round < 20; round++) {
    for (const number of numbers(round * 100, round * 100 + 100)) audit.write(entry(number))
    if (round % 2 === 1) await sleep(2)
    if (existsSync(path)) renameSync(path, join(directory, `rotated-${String(round).padStart(2, '0')}`))
  }
  audit.write(entry(2000))
  await until(() => connections().at(-1) === 2000)
  const files = readdirSync(directory).sort((a, b) =>
    a === 'audit.log' ? 1 : b === 'audit.log' ? -1 : a < b ? -1 : 1,
  )
  expect(files.length).toBeGreaterThan(2)
  expect(files.flatMap((name) => connections(join(directory, name)))).toEqual(numbers(0, 2001))
  expect(statSync(path).mode & 0o777).toBe(0o600)
  const held = readdirSync('/proc/self/fd').map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`)
    } catch {
      return ''
    }
  })
  expect(held.filter((target) => target.startsWith(directory))).toEqual([path])
})

test('after a rotation by truncating, lines begin at its start', async () => {
  await using audit = await open()
  audit.write(entry(1))
  await until(() => lines().length === 1)
  truncateSync(path)
  audit.write(entry(2))
  await until(() => lines().length === 1)
  expect(connections()).toEqual([2])
})

test('half a line of a daemon that was killed does not spoil the next one', async () => {
  writeFileSync(path, '{"connection":0}\n{"connec', { mode: 0o600 })
  const audit = await open()
  audit.write(entry(1))
  await audit[Symbol.asyncDispose]()
  const text = readFileSync(path, 'utf8').split('\n')
  expect(text.slice(0, 2)).toEqual(['{"connection":0}', '{"connec'])
  expect(JSON.parse(text[2] ?? '')).toMatchObject({ connection: 1 })
})

test.each([
  ['a link', (place: string) => symlinkSync(join(directory, 'elsewhere'), place)],
  ['a directory', (place: string) => mkdirSync(place)],
  ['a FIFO', (place: string) => execFileSync('mkfifo', [place])],
])('%s in its place is refused at the start', async (_, make) => {
  make(path)
  await expect(open()).rejects.toMatchObject({
    code: 'ISB_CONFIG_INVALID',
    hint: expect.stringContaining(path),
  })
  expect(existsSync(join(directory, 'elsewhere'))).toBe(false)
})

test('a directory that does not exist is refused at the start', async () => {
  await expect(open({ path: join(directory, 'no/audit.log') })).rejects.toMatchObject({
    code: 'ISB_CONFIG_INVALID',
  })
})

test.skipIf(!isRoot)('a file of another user is refused', async () => {
  writeFileSync(path, '')
  execFileSync('chown', ['12345', path])
  await expect(open()).rejects.toMatchObject({ code: 'ISB_CONFIG_INVALID' })
})

test('a link put in its place later gets no line, and what waited comes when it is gone', async () => {
  await using audit = await open()
  const victim = join(directory, 'victim')
  writeFileSync(victim, '')
  rmSync(path)
  symlinkSync(victim, path)
  audit.write(entry(1))
  await until(() => told.length > 0)
  audit.write(entry(2))
  await sleep(50)
  expect(readFileSync(victim, 'utf8')).toBe('')
  // However often it is tried.
  expect(told.map(({ event }) => event)).toEqual(['audit.failed'])
  expect(told[0]?.fields).toMatchObject({ path, error: expect.objectContaining({ code: 'ELOOP' }) })
  rmSync(path)
  await until(() => lines().length === 2)
  expect(connections()).toEqual([1, 2])
  expect(told.map(({ event }) => event)).toEqual(['audit.failed', 'audit.resumed'])
})

test('a failure that lasts is told again after its time', async () => {
  await using audit = await open({ reportMs: 60 })
  rmSync(path)
  mkdirSync(path)
  audit.write(entry(1))
  await sleep(400)
  const failures = told.filter(({ event }) => event === 'audit.failed').length
  expect(failures).toBeGreaterThan(1)
  expect(failures).toBeLessThan(8)
  rmSync(path, { recursive: true })
  await until(() => lines().length === 1)
})

test.skipIf(!isRoot)('a full disk holds nothing up, and costs only lines beyond the backlog', async () => {
  const mount = join(directory, 'full')
  mkdirSync(mount)
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', mount])
  try {
    const place = join(mount, 'audit.log')
    await using audit = await open({ path: place, backlog: 100_000 })
    expect(() => {
      for (;;) appendFileSync(join(mount, 'filler'), 'x'.repeat(1000))
    }).toThrow(/ENOSPC/)
    // The file gets the rest of no page: what is written now fails, after a part perhaps.
    const began = performance.now()
    for (const number of numbers(0, 3000)) audit.write(entry(number))
    expect(performance.now() - began).toBeLessThan(1000)
    await until(() => told.length > 1)
    await sleep(50)
    expect(told).toMatchObject([
      { event: 'audit.overflow', fields: { path: place, lost: 1 } },
      { event: 'audit.failed', fields: { path: place, error: { code: 'ENOSPC' } } },
    ])
    rmSync(join(mount, 'filler'))
    execFileSync('mount', ['-o', 'remount,size=4m', mount])
    await until(() => lines(place).some((line) => 'lost' in line))
    const kept = connections(place).filter((number) => number !== undefined)
    const lost = Number(lines(place).find((line) => 'lost' in line)?.['lost'])
    expect(kept).toEqual(numbers(0, kept.length))
    expect(lost).toBeGreaterThan(500)
    expect(kept.length + lost).toBe(3000)
  } finally {
    execFileSync('umount', ['--lazy', mount])
  }
})

test('closing with a file that takes nothing says what is lost', async () => {
  const audit = await open()
  rmSync(path)
  mkdirSync(path)
  for (const number of numbers(0, 3)) audit.write(entry(number))
  await until(() => told.length > 0)
  const began = performance.now()
  await audit[Symbol.asyncDispose]()
  expect(performance.now() - began).toBeLessThan(1000)
  expect(told.at(-1)).toEqual({ event: 'audit.lost', fields: { path, lines: 3 } })
})
