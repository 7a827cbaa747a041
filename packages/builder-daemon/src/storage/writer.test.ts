import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { listBackups } from './backup.js'
import { makeReserve } from './reserve.js'
import { configureWriter, migrate } from './schema.js'
import type { ThreadReply } from './thread-messages.js'
import { createWriter } from './writer.js'

let directory: string
let path: string
const policy = () => ({
  directory: join(directory, 'backup'),
  commits: 1000,
  maxAgeMs: 1e9,
  minGapMs: 0,
  keep: 2,
})

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'isula-writer-'))
  path = join(directory, 'store.sqlite')
  mkdirSync(join(directory, 'backup'))
  const db = new Database(path)
  configureWriter(db)
  migrate(db)
  db.close()
})
afterEach(() => rmSync(directory, { recursive: true, force: true }))

function serve(writer: ReturnType<typeof createWriter>, ...requests: [name: string, params: unknown][]) {
  const replies: ThreadReply[] = []
  writer.serve(
    requests.map(([name, params], index) => ({ id: index + 1, name, params })),
    (reply) => replies.push(reply),
  )
  return replies.sort((a, b) => a.id - b.id)
}

function names(): string[] {
  const db = new Database(path, { readonly: true })
  const found = db.prepare('SELECT id FROM leases ORDER BY id').pluck().all() as string[]
  db.close()
  return found
}

const lease = (id: string): [string, unknown] => ['acquireLease', { id, uid: 0, purpose: 'p', now: 1 }]
const failWith = (error: unknown) => () => {
  throw error
}

test('commits what succeeds of a batch and rolls back what fails alone', () => {
  const writer = createWriter(path, policy(), failWith(new Error('no report expected')))
  const replies = serve(
    writer,
    lease('a'),
    lease('a'),
    ['untagName', { name: 'none:1' }],
    ['noSuchWrite', {}],
    ['toString', {}],
    lease('b'),
  )
  expect(replies.map((reply) => reply.ok)).toEqual([true, false, false, false, false, true])
  expect(replies[2]).toMatchObject({ failure: { code: 'ISB_IMAGE_NOT_FOUND' } })
  expect(names()).toEqual(['a', 'b'])
  writer.close()
})

test('undoes every statement of a request that fails in the middle', () => {
  const writer = createWriter(path, policy(), failWith(new Error('no report expected')))
  const layer = {
    id: 'l',
    op: 'o',
    leaseId: 'a',
    diffId: 'sha256:x',
    tarSize: null,
    keepsHeaders: false,
    parentKey: null,
    contentId: null,
    sharesWith: null,
    family: null,
    synced: true,
    now: 1,
  }
  // The check of the table (a diff ID has a size) fails after the op was removed.
  const replies = serve(writer, lease('a'), ['addOp', { id: 'o', leaseId: 'a' }], ['publishLayer', layer])
  expect(replies.map((reply) => reply.ok)).toEqual([true, true, false])
  const again = serve(writer, ['publishLayer', { ...layer, tarSize: 1 }])
  expect(again).toMatchObject([{ ok: true }])
  writer.close()
})

test('takes backups that are complete databases and keeps the newest', () => {
  const writer = createWriter(path, policy(), failWith(new Error('no report expected')))
  for (const id of ['a', 'b', 'c']) {
    serve(writer, lease(id))
    expect(serve(writer, ['backup', undefined])).toMatchObject([{ ok: true }])
  }
  writer.close()
  expect(listBackups(join(directory, 'backup'))).toEqual([3, 2])
  const copy = new Database(join(directory, 'backup', '3.sqlite'), { readonly: true })
  expect(copy.prepare('SELECT count(*) FROM leases').pluck().get()).toBe(3)
  copy.close()
})

test('takes a backup by itself after enough durable commits', async () => {
  const writer = createWriter(path, { ...policy(), commits: 3 }, failWith(new Error('no report expected')))
  const durable: [string, unknown] = ['untagName', { name: 'none:1' }]
  for (let count = 0; count < 2; count++) serve(writer, durable)
  await new Promise((resolve) => setTimeout(resolve, 20))
  expect(listBackups(join(directory, 'backup'))).toEqual([])
  serve(writer, durable)
  await expect.poll(() => listBackups(join(directory, 'backup'))).toEqual([1])
  writer.close()
})

test('flushes what heals an image, as the image was durable before', async () => {
  const db = new Database(path)
  db.exec(`
    INSERT INTO images VALUES ('i', 1, 1, 1, 0, x'00');
    INSERT INTO layers (id, diff_id, tar_size, keeps_headers, state, synced, epoch, published_at)
    VALUES ('used', 'u', 1, 0, 'damaged', 1, 0, 1), ('unused', 'n', 1, 0, 'damaged', 1, 0, 1);
    INSERT INTO image_layers VALUES ('i', 0, 'used')`)
  db.close()
  const writer = createWriter(path, { ...policy(), commits: 1 }, failWith(new Error('no report expected')))
  const publish = (diffId: string): [string, unknown] => [
    'publishLayer',
    {
      ...{ id: `new-${diffId}`, op: diffId, leaseId: 'a', diffId, tarSize: 1, keepsHeaders: false, now: 1 },
      ...{ parentKey: null, contentId: null, sharesWith: null, family: null, synced: true },
    },
  ]
  const op = (id: string): [string, unknown] => ['addOp', { id, leaseId: 'a' }]
  expect(serve(writer, lease('a'), op('u'), op('n'), publish('n'))[3]).toMatchObject({ result: ['unused'] })
  await new Promise((resolve) => setTimeout(resolve, 20))
  expect(listBackups(join(directory, 'backup'))).toEqual([])
  // A backup is taken of durable commits only.
  expect(serve(writer, lease('b'), publish('u'))).toMatchObject([{ ok: true }, { result: ['used'] }])
  await expect.poll(() => listBackups(join(directory, 'backup'))).toEqual([1])
  expect(names()).toEqual(['a', 'b'])
  writer.close()
})

test('reports a backup that fails and goes on', async () => {
  const reports: unknown[] = []
  const gone = { ...policy(), directory: join(directory, 'nowhere'), commits: 1, minGapMs: 1e6 }
  const writer = createWriter(path, gone, (error) => reports.push(error))
  serve(writer, ['untagName', { name: 'none:1' }])
  await expect.poll(() => reports.length).toBe(1)
  expect(serve(writer, lease('a'))).toMatchObject([{ ok: true }])
  writer.close()
})

test('finds nothing wrong with a sound database', () => {
  const writer = createWriter(path, policy(), failWith(new Error('no report expected')))
  expect(serve(writer, ['quickCheck', undefined])).toEqual([{ id: 1, ok: true, result: [] }])
  writer.close()
})

test('makes the reserve once', () => {
  makeReserve(directory)
  makeReserve(directory)
  expect(existsSync(join(directory, 'reserve'))).toBe(true)
})
