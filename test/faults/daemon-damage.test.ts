import { randomBytes } from 'node:crypto'
import {
  closeSync,
  existsSync,
  lstatSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { getuid } from 'node:process'
import BetterSqlite from 'better-sqlite3'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { createDaemonBench, type DaemonBench } from '../support/daemon-bench.js'
import { inspectStore, readStore } from '../support/store-inspection.js'

let bench: DaemonBench
const contexts = new Map<string, string>()
const all = ['base:1', 'hurt:1', 'well:1']

async function build(name: string): Promise<void> {
  await bench.image('build', '--no-cache', '-t', name, contexts.get(name) ?? '')
}

function archive(name: string): string {
  return join(bench.work, `${name.replace(':', '-')}.tar`)
}

/** The top layer of the image: its own one. */
function layerOf(name: string): string {
  const [row] = readStore<{ layer_id: string }>(
    bench.data,
    `SELECT layer_id FROM image_layers JOIN names USING (image_id) WHERE name = '${name}'
     ORDER BY position DESC LIMIT 1`,
  )
  if (row === undefined) throw new Error(`${name} has no layer`)
  return join(bench.data, 'layers', row.layer_id)
}

async function names(): Promise<readonly string[]> {
  return (await bench.images()).flatMap((image) => image.names).sort()
}

async function isSavable(name: string): Promise<boolean> {
  const path = join(bench.work, 'try.tar')
  const { status, stderr } = await bench.client(['ctr-img', 'save', '-o', path, name]).ended
  rmSync(path, { force: true })
  if (status === 0) return true
  expect(stderr).toContain('damaged')
  return false
}

async function expectHealthy(): Promise<void> {
  expect(await names()).toEqual(all)
  for (const name of all) expect(await isSavable(name), name).toBe(true)
  await bench.expectSound()
}

function flipBit(path: string): void {
  const fd = openSync(path, 'r+')
  const byte = Buffer.alloc(1)
  const position = Math.floor(lstatSync(path).size / 2)
  readSync(fd, byte, 0, 1, position)
  byte[0] = (byte[0] ?? 0) ^ 4
  writeSync(fd, byte, 0, 1, position)
  closeSync(fd)
}

const database = (suffix = ''): string => join(bench.data, `db/store.sqlite${suffix}`)

describe.skipIf(getuid?.() !== 0)('a daemon whose data root was damaged (needs root)', () => {
  beforeAll(async () => {
    bench = await createDaemonBench()
    for (const name of ['hurt:1', 'well:1']) {
      const context = bench.context('FROM base:1\nCOPY content /content\n')
      writeFileSync(join(context, 'content'), randomBytes(300_000))
      contexts.set(name, context)
      await build(name)
      await bench.image('save', '-o', archive(name), name)
    }
  })
  afterAll(() => bench[Symbol.asyncDispose]())
  // A test that fails leaves the others their images.
  beforeEach(async () => {
    const { child } = bench.daemon
    if (child?.exitCode !== null || child.signalCode !== null) await bench.restart()
    const found = await bench.images()
    for (const name of ['hurt:1', 'well:1']) {
      const image = found.find(({ names: own }) => own.includes(name))
      if (image === undefined || !existsSync(layerOf(name))) await bench.image('load', '-i', archive(name))
    }
    expect(await names()).toEqual(all)
  })

  const damages: readonly (readonly [string, (layer: string) => void])[] = [
    ['a flipped bit', (layer) => flipBit(join(layer, 'diff/content'))],
    ['a file cut to nothing', (layer) => truncateSync(join(layer, 'diff/content'))],
    ['a file missing', (layer) => rmSync(join(layer, 'diff/content'))],
    ['its directory missing', (layer) => rmSync(layer, { recursive: true })],
    [
      'a link in place of its directory',
      (layer) => {
        rmSync(layer, { recursive: true })
        symlinkSync(bench.work, layer)
      },
    ],
  ]
  const heals: readonly (readonly [string, () => Promise<unknown>])[] = [
    ['loading', () => bench.image('load', '-i', archive('hurt:1'))],
    ['building', () => build('hurt:1')],
  ]
  test.each(damages.flatMap(([what, damage]) => heals.map(([how, heal]) => ({ what, damage, how, heal }))))(
    'a layer with $what is reported with its image only, and healed by $how it again',
    async ({ damage, heal }) => {
      await bench.kill('SIGTERM')
      damage(layerOf('hurt:1'))
      await bench.restart()
      expect(await names()).toEqual(all)
      expect(await isSavable('hurt:1')).toBe(false)
      expect(await isSavable('well:1')).toBe(true)
      expect(await isSavable('base:1')).toBe(true)
      const dependent = bench.context('FROM hurt:1\nRUN echo no > /no\n')
      const refused = await bench.client(['ctr-img', 'build', dependent]).ended
      expect(refused.stderr).toContain('damaged')
      expect(refused.status).toBe(1)
      expect(new Set((await inspectStore(bench.data)).map(({ invariant }) => invariant))).toEqual(
        new Set(['I1', 'I2']),
      )
      await heal()
      for (const image of await bench.images())
        if (image.names.length === 0) await bench.image('rm', image.id)
      await bench.prune()
      await expectHealthy()
      expect(existsSync(join(bench.work, 'base.tar'))).toBe(true)
    },
  )

  test.each([
    ['is garbage', (path: string) => writeFileSync(path, randomBytes(50_000))],
    ['is empty', (path: string) => truncateSync(path)],
    ['is missing', (path: string) => rmSync(path)],
    ['has garbage in the middle', (path: string) => flipPage(path)],
  ])('an image database that %s is put aside and found again from the files', async (_what, damage) => {
    await bench.kill('SIGTERM')
    for (const suffix of ['-wal', '-shm']) rmSync(database(suffix), { force: true })
    rmSync(join(bench.data, 'db/backup'), { recursive: true, force: true })
    damage(database())
    await bench.restart()
    await expectHealthy()
  })

  test('an unreadable image database and an unreadable layer record cost that image alone', async () => {
    await bench.kill('SIGTERM')
    const record = readdirSync(layerOf('hurt:1')).find((name) => name.endsWith('.json'))
    truncateSync(join(layerOf('hurt:1'), record ?? ''))
    rmSync(join(bench.data, 'db/backup'), { recursive: true, force: true })
    writeFileSync(database(), 'no database')
    await bench.restart()
    expect(await names()).toEqual(['base:1', 'well:1'])
    await bench.image('load', '-i', archive('hurt:1'))
    await expectHealthy()
  })

  test('a write-ahead log that is gone leaves a sound store', async () => {
    await bench.kill()
    rmSync(database('-wal'))
    await bench.restart()
    await bench.expectSound()
    for (const name of await names()) expect(await isSavable(name), name).toBe(true)
    for (const name of ['hurt:1', 'well:1']) await bench.image('load', '-i', archive(name))
    if (!(await names()).includes('base:1')) await bench.image('import', bench.baseTar, 'base:1')
    await expectHealthy()
  })

  test('a write-ahead log of garbage leaves a sound store', async () => {
    await bench.kill()
    writeFileSync(database('-wal'), randomBytes(40_000))
    await bench.restart()
    await bench.expectSound()
    for (const name of ['hurt:1', 'well:1']) await bench.image('load', '-i', archive(name))
    if (!(await names()).includes('base:1')) await bench.image('import', bench.baseTar, 'base:1')
    await expectHealthy()
  })

  test('an image database of a newer version is left alone, with a reason', async () => {
    await bench.kill('SIGTERM')
    const setVersion = (version: number): number => {
      const db = new BetterSqlite(database())
      const before = Number(db.pragma('user_version', { simple: true }))
      db.pragma(`user_version = ${version}`)
      db.close()
      return before
    }
    const own = setVersion(999)
    writeFileSync(bench.daemon.log, '')
    await expect(bench.restart()).rejects.toThrow('has schema 999')
    expect(await bench.daemon.exited).toEqual({ code: 1, signal: null })
    const said = readFileSync(bench.daemon.log, 'utf8').trim().split('\n')
    expect(said.filter((line) => !line.startsWith('{')).length).toBeLessThanOrEqual(2)
    setVersion(own)
    await bench.restart()
    await expectHealthy()
  })
})

/** Every page but the first. */
function flipPage(path: string): void {
  const bytes = readFileSync(path)
  writeFileSync(path, Buffer.concat([bytes.subarray(0, 4096), randomBytes(Math.max(0, bytes.length - 4096))]))
}
