import { type Digest, digestOf } from '@isula-build/shared/oci/digest.js'
import { mediaTypes } from '@isula-build/shared/oci/media-types.js'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { bundleEntry, databaseWorkerEntry } from '../../../../test/support/bundled-worker.js'
import {
  collectingLogger,
  configBytes,
  makeRoots,
  openAt,
  publishContent,
  type Roots,
} from '../../../../test/support/temporary-store.js'
import type { ListEntry, ManifestList } from '../ports/manifest-lists.js'
import type { Store } from './store.js'

let roots: Roots
let store: Store
const log = collectingLogger()

beforeEach(async () => {
  roots = await makeRoots()
  store = await open()
})
afterEach(async () => {
  await store.close()
  await roots.remove()
})

const open = async (): Promise<Store> => openAt(roots, await bundleEntry(databaseWorkerEntry), { log })

function entry(imageId?: string, digest = digestOf(imageId ?? 'remote')): ListEntry {
  return {
    ...{ digest, size: 10, mediaType: mediaTypes.ociManifest },
    platform: { os: 'linux', architecture: 'arm', variant: 'v7', osFeatures: ['a'] },
    annotations: { a: 'b' },
    origin: imageId === undefined ? { kind: 'remote', name: 'r.test/a' } : { kind: 'local', imageId },
  }
}
function list(name: string, entries: readonly ListEntry[], owner = 0): ManifestList {
  const id = digestOf(name).slice(7)
  return { name, id, entries, owner, format: 'oci', annotations: { c: 'd' }, createdAt: 5 }
}
async function imageOf(label: string, names: readonly string[] = []): Promise<string> {
  const lease = await store.layers.acquireLease({ uid: 0, purpose: 'test' })
  const layer = await publishContent(store, lease, label)
  const image = { configBytes: configBytes([layer], label), layers: [layer.id], names, owner: 0 }
  const { id } = await store.images.put(image, lease)
  await store.layers.releaseLease(lease)
  return id
}

test('a list is the same after a restart', async () => {
  const id = await imageOf('one')
  const lists = [list('b:1', [entry(), entry(id)]), list('a:1', [])]
  for (const one of lists) await store.lists.put(one, 'create')
  await store.close()
  store = await open()
  expect(await store.lists.all()).toEqual([lists[1], lists[0]])
  expect(await store.lists.get('b:1')).toEqual(lists[0])
  expect(await store.lists.get('b')).toBeUndefined()
  expect(await store.check()).toEqual([])
})

test('an image in lists goes when the last of them did', async () => {
  const id = await imageOf('one')
  await store.lists.put(list('a:1', [entry(id)]), 'create')
  await store.lists.put(list('b:1', [entry(id), entry(id, digestOf('other'))]), 'create')
  await store.lists.put(list('a:1', [entry()]), 'replace')
  await expect(store.images.remove(id)).rejects.toMatchObject({
    code: 'ISB_IMAGE_IN_USE',
    message: expect.stringContaining('"b:1"'),
  })
  expect(await store.images.removeUnnamed()).toEqual([])
  expect(await store.lists.remove('b:1', 0)).toBe(true)
  expect(await store.lists.remove('b:1', 0)).toBe(false)
  expect((await store.images.removeUnnamed()).map(({ imageId }) => imageId)).toEqual([id])
})

test('a failed put changes nothing', async () => {
  await imageOf('one', ['taken:1'])
  const before = list('a:1', [entry()])
  await store.lists.put(before, 'create')
  const gone = list('a:1', [entry('f'.repeat(64))])
  await expect(store.lists.put(gone, 'replace')).rejects.toMatchObject({ code: 'ISB_IMAGE_NOT_FOUND' })
  for (const name of ['a:1', 'taken:1']) {
    const work = store.lists.put(list(name, []), 'create')
    await expect(work).rejects.toMatchObject({ code: 'ISB_ALREADY_EXISTS' })
    const foreign = store.lists.put(list(name, [], 1000), 'replace')
    await expect(foreign).rejects.toMatchObject({ code: 'ISB_PERMISSION_DENIED' })
  }
  expect(await store.lists.all()).toEqual([before])
  expect((await store.images.get('taken:1'))?.names).toEqual(['taken:1'])
})

test('storing an image under the name of a list replaces the list, but not that of another user', async () => {
  await store.lists.put(list('a:1', [entry()]), 'create')
  await store.lists.put(list('b:1', [entry()], 1000), 'create')
  const id = await imageOf('one', ['a:1'])
  expect(await store.lists.get('a:1')).toBeUndefined()
  await store.lists.put(list('c:1', []), 'create')
  await expect(store.images.tag(id, 'c:1', 1000)).rejects.toMatchObject({ code: 'ISB_PERMISSION_DENIED' })
  await store.images.tag(id, 'b:1', 1000)
  expect((await store.lists.all()).map(({ name }) => name)).toEqual(['c:1'])
})

test('what is unreadable is told to who asks for it, and spoils no listing', async () => {
  await store.lists.put(list('bad:1', [entry(undefined, '../../etc' as Digest)]), 'create')
  await store.lists.put(list('good:1', [entry()]), 'create')
  await expect(store.lists.get('bad:1')).rejects.toMatchObject({ code: 'ISB_IMAGE_DAMAGED' })
  expect((await store.lists.all()).map(({ name }) => name)).toEqual(['good:1'])
  expect(log.events).toContainEqual(expect.objectContaining({ event: 'lists.unreadable' }))
  await store.lists.put(list('bad:1', []), 'replace')
  expect((await store.lists.get('bad:1'))?.entries).toEqual([])
})
