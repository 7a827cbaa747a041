import { type DiffId, type Digest, digestOf } from '@isula-build/shared/oci/digest.js'
import BetterSqlite from 'better-sqlite3'
import { expect, test } from 'vitest'
import type { Logger } from '../ports/logger.js'
import type { LayerBlob } from '../ports/transfer-memory.js'
import type { Database } from './database.js'
import { configureConnection, migrate } from './schema.js'
import { createTransferMemory, type TransferMemoryLimits } from './transfer-memory.js'
import { prepareStatements, type Write } from './writes/transaction.js'
import { transferWrites } from './writes/transfers.js'

const day = 86_400_000

function open(limits?: TransferMemoryLimits) {
  const db = new BetterSqlite(':memory:')
  configureConnection(db)
  migrate(db)
  const read = prepareStatements(db)
  const warnings: string[] = []
  const silent = () => undefined
  const log: Logger = { debug: silent, info: silent, error: silent, warn: (event) => warnings.push(event) }
  let now = 1000
  const write = async (name: string, params: unknown) => {
    const known = transferWrites[name as keyof typeof transferWrites] as Write<unknown, unknown>
    return known.run({ ...read, epoch: 1, flush: silent }, params)
  }
  const database = { read, write } as unknown as Database
  const memory = createTransferMemory({
    ...{ database, log, clock: { now: () => now } },
    ...(limits === undefined ? {} : { limits }),
  })
  const image = (id: string) => db.exec(`INSERT INTO images VALUES ('${id}', 0, 0, 0, 0, x'00')`)
  return { db, memory, warnings, image, at: (time: number) => (now = time) }
}

const diffId = digestOf('layer') as DiffId
const blob = (text: string, rest: Partial<LayerBlob> = {}): LayerBlob => ({
  ...{ digest: digestOf(text), size: text.length, compression: 'gzip', recipe: null },
  ...rest,
})

test('gives the forms of a layer, the one used last first', async () => {
  const { memory, at } = open()
  await memory.rememberBlob(diffId, blob('a'))
  at(2000)
  await memory.rememberBlob(diffId, blob('b', { compression: 'zstd', recipe: 'zstd:3:x' }))
  expect(await memory.blobsOf(diffId)).toEqual([
    blob('b', { compression: 'zstd', recipe: 'zstd:3:x' }),
    blob('a'),
  ])
  at(3000)
  await memory.rememberBlob(diffId, blob('a'))
  expect((await memory.blobsOf(diffId)).map((form) => form.digest)).toEqual([digestOf('a'), digestOf('b')])
  expect(await memory.blobsOf(digestOf('other') as DiffId)).toEqual([])
})

test('a form that can be made here stays so when it is fetched', async () => {
  const { memory } = open()
  await memory.rememberBlob(diffId, blob('a'))
  await memory.rememberBlob(diffId, blob('a', { recipe: 'gzip:1:x' }))
  await memory.rememberBlob(diffId, blob('a'))
  expect(await memory.blobsOf(diffId)).toEqual([blob('a', { recipe: 'gzip:1:x' })])
})

test('places are those of one user and one host, the latest first', async () => {
  const { memory, at } = open()
  const digest = digestOf('a')
  await memory.rememberPlace(1, 'r:5000', 'one', [digest, digestOf('b')])
  at(2000)
  await memory.rememberPlace(1, 'r:5000', 'two', [digest])
  await memory.rememberPlace(2, 'r:5000', 'secret', [digest])
  await memory.rememberPlace(1, 'q', 'elsewhere', [digest])
  await memory.rememberPlace(1, 'r:5000', 'nothing', [])
  expect(await memory.placesOf(1, 'r:5000', digest)).toEqual(['two', 'one'])
  expect(await memory.placesOf(1, 'r:5000', digestOf('b'))).toEqual(['one'])
  expect(await memory.placesOf(3, 'r:5000', digest)).toEqual([])
  at(3000)
  await memory.rememberPlace(1, 'r:5000', 'one', [digest])
  expect(await memory.placesOf(1, 'r:5000', digest)).toEqual(['one', 'two'])
})

test('a digest means images, one for each platform, and goes with them', async () => {
  const { db, memory, image, warnings } = open()
  const index = digestOf('index')
  image('i1')
  image('i2')
  await memory.rememberDigest('docker.io/library/a', index, 'i1')
  await memory.rememberDigest('docker.io/library/a', index, 'i2')
  await memory.rememberDigest('docker.io/library/a', index, 'i2')
  await memory.rememberDigest('docker.io/library/a', digestOf('manifest'), 'i2')
  await memory.rememberDigest('docker.io/library/b', index, 'i2')
  expect(await memory.imagesOf('docker.io/library/a', index)).toEqual(['i1', 'i2'])
  expect(new Set(await memory.digestsOf('i2', 'docker.io/library/a'))).toEqual(
    new Set<Digest>([index, digestOf('manifest')]),
  )
  db.exec("DELETE FROM images WHERE id = 'i2'")
  expect(await memory.imagesOf('docker.io/library/a', index)).toEqual(['i1'])
  expect(await memory.imagesOf('docker.io/library/b', index)).toEqual([])
  await memory.rememberDigest('docker.io/library/a', index, 'gone')
  expect(await memory.imagesOf('docker.io/library/a', index)).toEqual(['i1'])
  expect(warnings).toEqual([])
})

test('keeps the newest rows and none that are too old', async () => {
  const { db, memory, at } = open({ rows: 3, maxAgeMs: 10 * day, trimEvery: 1 })
  for (let i = 0; i < 10; i++) {
    at(1000 + i)
    await memory.rememberBlob(diffId, blob(`form ${i}`))
    await memory.rememberPlace(1, 'r', `repository${i}`, [digestOf('a')])
  }
  expect((await memory.blobsOf(diffId)).map((form) => form.digest)).toEqual(
    [9, 8, 7].map((i) => digestOf(`form ${i}`)),
  )
  expect(await memory.placesOf(1, 'r', digestOf('a'))).toEqual(['repository9', 'repository8', 'repository7'])
  at(11 * day)
  await memory.rememberBlob(diffId, blob('new'))
  expect(await memory.blobsOf(diffId)).toEqual([blob('new')])
  expect(db.prepare('SELECT count(*) FROM blob_places').pluck().get()).toBe(0)
})

test('a clock that was set back makes nothing immortal', async () => {
  const { memory, at } = open({ rows: 1, maxAgeMs: 10 * day, trimEvery: 1 })
  at(1000 * day)
  await memory.rememberBlob(diffId, blob('from the future'))
  at(day)
  await memory.rememberBlob(diffId, blob('now'))
  at(2 * day)
  await memory.rememberBlob(diffId, blob('later'))
  expect(await memory.blobsOf(diffId)).toEqual([blob('later')])
})

test('does not trim at every write', async () => {
  const { db, memory } = open({ rows: 1, maxAgeMs: day, trimEvery: 5 })
  for (let i = 0; i < 4; i++) await memory.rememberBlob(diffId, blob(`form ${i}`))
  expect(db.prepare('SELECT count(*) FROM layer_blobs').pluck().get()).toBeGreaterThan(1)
  for (let i = 0; i < 4; i++) await memory.rememberBlob(diffId, blob(`more ${i}`))
  expect(db.prepare('SELECT count(*) FROM layer_blobs').pluck().get()).toBeLessThan(5)
})

test('what cannot be remembered is a warning, not a failure', async () => {
  const { db, memory, warnings } = open()
  db.exec('DROP TABLE layer_blobs')
  await memory.rememberBlob(diffId, blob('a'))
  expect(warnings).toEqual(['transfers.not-remembered'])
})
