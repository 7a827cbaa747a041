import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { ImageStore } from '../../packages/builder-daemon/src/ports/image-store.js'
import type { LayerStore, Lease } from '../../packages/builder-daemon/src/ports/layer-store.js'
import { configBytes, publishContent } from '../support/temporary-store.js'

export interface OpenStores {
  readonly layers: LayerStore
  readonly images: ImageStore
  close(): Promise<void>
}

/** What every ImageStore promises. */
export function imageStoreSuite(name: string, open: () => Promise<OpenStores>): void {
  describe(`${name} as an image store`, () => {
    let stores: OpenStores
    let lease: Lease
    const unique = () => `n${randomBytes(6).toString('hex')}`
    const newLease = () => stores.layers.acquireLease({ uid: 7, purpose: 'build t' })
    const put = async (names: readonly string[], over: { contents?: string[]; created?: string } = {}) => {
      const contents = over.contents ?? [unique()]
      const layers = []
      for (const content of contents) layers.push(await publishContent(stores, lease, content))
      const bytes = configBytes(layers, unique(), over.created)
      return stores.images.put(
        { configBytes: bytes, layers: layers.map((l) => l.id), names, owner: 7 },
        lease,
      )
    }
    const release = async () => {
      await stores.layers.releaseLease(lease)
      lease = await newLease()
    }

    beforeAll(async () => {
      stores = await open()
      lease = await newLease()
    })
    afterAll(() => stores.close())

    test('gives back an image by ID and by each of its names', async () => {
      const [a, b] = [`${unique()}:latest`, `${unique()}:2`]
      const image = await put([b, a], {
        contents: ['one', 'three'],
        created: '2020-01-02T03:04:05.678901234Z',
      })
      expect(image.names).toEqual([a, b].sort())
      expect(image.createdAt).toBe(Date.parse('2020-01-02T03:04:05.678Z'))
      expect(image.size).toBe(3 + 5 + image.configBytes.length)
      expect(image.layers.map((layer) => layer.tarSize)).toEqual([3, 5])
      for (const key of [image.id, a, b]) expect(await stores.images.get(key)).toEqual(image)
      expect(await stores.images.get(a.slice(0, -1))).toBeUndefined()
      expect(await stores.images.get(image.id.slice(0, 63))).toBeUndefined()
    })

    test('moves a name to the image stored last and leaves the other one nameless', async () => {
      const name = `${unique()}:1`
      const first = await put([name])
      const second = await put([name])
      expect((await stores.images.get(name))?.id).toBe(second.id)
      expect((await stores.images.get(first.id))?.names).toEqual([])
      expect((await stores.images.list()).find(({ id }) => id === first.id)?.names).toEqual([])
    })

    test('adds names when the same image is stored again', async () => {
      const layer = await publishContent(stores, lease, unique())
      const bytes = configBytes([layer], unique())
      const [a, b] = [`${unique()}:1`, `${unique()}:1`]
      const image = { configBytes: bytes, layers: [layer.id], owner: 1 }
      await stores.images.put({ ...image, names: [a] }, lease)
      const again = await stores.images.put({ ...image, names: [b], owner: 2 }, lease)
      expect(again.names).toEqual([a, b].sort())
      expect(again.owner).toBe(1)
    })

    test('stores several images at once, in their order, the last one with a name it shares', async () => {
      const layer = await publishContent(stores, lease, unique())
      const [shared, own] = [`${unique()}:1`, `${unique()}:1`]
      const image = (names: readonly string[]) => ({
        ...{ configBytes: configBytes([layer], unique()), layers: [layer.id], names, owner: 7 },
      })
      const first = image([shared, own])
      const images = [first, image([shared]), { ...first, names: [] }]
      const records = await stores.images.putAll(images, lease)
      expect(records.map(({ configBytes: bytes }) => Buffer.from(bytes))).toEqual(
        images.map(({ configBytes: bytes }) => bytes),
      )
      expect(records.map(({ names }) => names)).toEqual([[own], [shared], [own]])
      expect(await stores.images.putAll([], lease)).toEqual([])
    })

    test('stores all of several images or none', async () => {
      const taken = `${unique()}:1`
      await put([taken])
      const image = (names: readonly string[]) => ({
        ...{ configBytes: configBytes([], unique()), layers: [], names, owner: 8 },
      })
      const before = (await stores.images.list()).length
      const storing = stores.images.putAll([image([`${unique()}:1`]), image([taken]), image([])], lease)
      await expect(storing).rejects.toMatchObject({ code: 'ISB_PERMISSION_DENIED' })
      expect(await stores.images.list()).toHaveLength(before)
    })

    test('several images that are stored by several at once do not wait for each other in a circle', async () => {
      const images = Array.from({ length: 6 }, () => ({
        ...{ configBytes: configBytes([], unique()), layers: [], names: [], owner: 7 },
      }))
      const orders = [images, [...images].reverse(), images.slice(3), images.slice(0, 2).reverse()]
      const stored = await Promise.all(orders.map((several) => stores.images.putAll(several, lease)))
      expect(stored.map((records) => records.length)).toEqual([6, 6, 3, 2])
    })

    test('stores an image without layers', async () => {
      const image = await put([`${unique()}:1`], { contents: [] })
      expect(image.layers).toEqual([])
      expect(image.size).toBe(image.configBytes.length)
    })

    test('resolves name:latest before the name, and names before ID prefixes', async () => {
      const repo = unique()
      const latest = await put([`${repo}:latest`])
      const prefix = latest.id.slice(0, 6)
      const other = await put([`${prefix}:latest`])
      expect((await stores.images.resolve(repo))?.id).toBe(latest.id)
      expect((await stores.images.resolve(`${repo}:latest`))?.id).toBe(latest.id)
      expect((await stores.images.resolve(prefix))?.id).toBe(other.id)
      await stores.images.untag(`${prefix}:latest`)
      expect((await stores.images.resolve(prefix))?.id).toBe(latest.id)
      expect((await stores.images.resolve(`sha256:${latest.id}`))?.id).toBe(latest.id)
      expect(await stores.images.resolve('no-such-image')).toBeUndefined()
      expect(await stores.images.resolve('')).toBeUndefined()
    })

    test('refuses an ambiguous ID prefix', async () => {
      const seen = new Map<string, string>()
      for (;;) {
        const { id } = await put([], { contents: [] })
        const digit = id.slice(0, 1)
        const before = seen.get(digit)
        if (before !== undefined && before !== id) {
          await expect(stores.images.resolve(digit)).rejects.toMatchObject({ code: 'ISB_REFERENCE_INVALID' })
          return
        }
        seen.set(digit, id)
      }
    })

    test('does not take LIKE patterns or SQL in a reference for anything', async () => {
      await put([`${unique()}:1`])
      for (const reference of ['%', '_', "' OR 1=1 --", '\0', 'a%', '🦊']) {
        expect(await stores.images.resolve(reference)).toBeUndefined()
        expect(await stores.images.get(reference)).toBeUndefined()
      }
    })

    test('tags, retags and untags', async () => {
      const [first, second] = [await put([]), await put([])]
      const name = `${unique()}:1`
      await stores.images.tag(first.id, name)
      expect((await stores.images.get(name))?.id).toBe(first.id)
      await stores.images.tag(second.id, name)
      expect((await stores.images.get(name))?.id).toBe(second.id)
      expect((await stores.images.get(first.id))?.names).toEqual([])
      await stores.images.untag(name)
      expect(await stores.images.get(name)).toBeUndefined()
      await expect(stores.images.untag(name)).rejects.toMatchObject({ code: 'ISB_IMAGE_NOT_FOUND' })
      await expect(stores.images.tag('0'.repeat(64), name)).rejects.toMatchObject({
        code: 'ISB_IMAGE_NOT_FOUND',
      })
    })

    test('keeps the names of each user from the others, but not from root', async () => {
      const [alice, bob] = [101, 102]
      const store = async (names: readonly string[], owner: number) => {
        const layers = [await publishContent(stores, lease, unique())]
        const image = { layers: layers.map(({ id }) => id), names, owner }
        return stores.images.put({ ...image, configBytes: configBytes(layers, unique()) }, lease)
      }
      const [name, other] = [`${unique()}:1`, `${unique()}:1`]
      const first = await store([name], alice)
      const denied = { code: 'ISB_PERMISSION_DENIED' }
      await expect(store([other, name], bob)).rejects.toMatchObject(denied)
      expect(await stores.images.get(other)).toBeUndefined()
      const second = await store([other], bob)
      await expect(stores.images.tag(second.id, name, bob)).rejects.toMatchObject(denied)
      await expect(stores.images.untag(name, bob)).rejects.toMatchObject(denied)
      await expect(stores.images.remove(first.id, bob)).rejects.toMatchObject(denied)
      expect((await stores.images.get(name))?.id).toBe(first.id)
      await stores.images.tag(second.id, name)
      expect((await stores.images.get(name))?.id).toBe(second.id)
      // It is root's now.
      await expect(stores.images.untag(name, alice)).rejects.toMatchObject(denied)
    })

    test('an image that several users named stays until the last of them removes it', async () => {
      const [alice, bob, eve] = [101, 102, 103]
      const layers = [await publishContent(stores, lease, unique())]
      const configured = configBytes(layers, unique())
      const names = { alice: `${unique()}:1`, bob: `${unique()}:1`, both: `${unique()}:1` }
      const store = (given: readonly string[], owner: number) =>
        stores.images.put(
          { configBytes: configured, layers: layers.map(({ id }) => id), names: given, owner },
          lease,
        )
      const { id } = await store([names.alice, names.both], alice)
      expect(await store([names.bob, names.both], bob)).toMatchObject({ id, owner: alice })
      await release()
      await expect(stores.images.remove(id, eve)).rejects.toMatchObject({ code: 'ISB_PERMISSION_DENIED' })
      expect(await stores.images.remove(id, alice)).toEqual({
        imageId: id,
        untagged: [names.alice, names.both].sort(),
        removedLayers: [],
        removedImage: false,
      })
      expect(await stores.images.get(id)).toMatchObject({ names: [names.bob], owner: bob })
      await expect(stores.images.remove(id, alice)).rejects.toMatchObject({ code: 'ISB_PERMISSION_DENIED' })
      expect(await stores.images.remove(id, bob)).toMatchObject({ removedImage: true })
      expect(await stores.images.get(id)).toBeUndefined()
    })

    test('an image meant by a name keeps the names that it gets meanwhile', async () => {
      const [alice, bob] = [101, 102]
      const [base, mine] = [`${unique()}:1`, `${unique()}:1`]
      const layers = [await publishContent(stores, lease, unique())]
      const image = { configBytes: configBytes(layers, unique()), layers: layers.map(({ id }) => id) }
      const { id } = await stores.images.put({ ...image, names: [base], owner: alice }, lease)
      await release()
      await stores.images.tag(id, mine, bob)
      const denied = { code: 'ISB_PERMISSION_DENIED', message: expect.stringContaining(base) }
      await expect(stores.images.remove(id, bob, base)).rejects.toMatchObject(denied)
      expect((await stores.images.get(id))?.names).toEqual([base, mine].sort())
      expect(await stores.images.remove(id, alice, base)).toEqual({
        ...{ imageId: id, untagged: [base], removedLayers: [], removedImage: false },
      })
      expect(await stores.images.get(id)).toMatchObject({ names: [mine], owner: bob })
      await expect(stores.images.remove(id, bob, base)).rejects.toMatchObject({ code: 'ISB_IMAGE_NOT_FOUND' })
      expect(await stores.images.remove(id, bob, mine)).toMatchObject({ removedImage: true })
    })

    test('tells beforehand whose names may not be given', async () => {
      const [alice, bob] = [101, 102]
      const name = `${unique()}:1`
      const layers = [await publishContent(stores, lease, unique())]
      const image = { configBytes: configBytes(layers, unique()), layers: layers.map(({ id }) => id) }
      const { id } = await stores.images.put({ ...image, names: [name], owner: alice }, lease)
      const other = 'f'.repeat(64)
      await expect(stores.images.checkName(other, name, bob)).rejects.toMatchObject({
        ...{
          code: 'ISB_PERMISSION_DENIED',
          message: `uid 102 may not take the name "${name}": it belongs to uid 101`,
        },
      })
      await stores.images.checkName(id, name, bob)
      for (const by of [alice, 0]) await stores.images.checkName(other, name, by)
      await stores.images.checkName(other, `${unique()}:1`, bob)
      expect(await stores.images.get(name)).toMatchObject({ id, names: [name] })
    })

    test('refuses names that are not repo:tag', async () => {
      const image = await put([])
      for (const name of ['', 'plain', 'a b:1', 'a:', ':1', 'a:-x', 'a\n:1', `a:${'x'.repeat(129)}`]) {
        await expect(stores.images.tag(image.id, name)).rejects.toMatchObject({
          code: 'ISB_REFERENCE_INVALID',
        })
      }
    })

    test('removes an image with all names, and the layers only it used, top first', async () => {
      const [shared, own1, own2] = [unique(), unique(), unique()]
      const base = await publishContent(stores, lease, shared)
      const tops = [await publishContent(stores, lease, own1), await publishContent(stores, lease, own2)]
      const keeper = await stores.images.put(
        { configBytes: configBytes([base], unique()), layers: [base.id], names: [], owner: 0 },
        lease,
      )
      const names = [`${unique()}:1`, `${unique()}:1`].sort()
      const stack = [base, ...tops]
      const image = await stores.images.put(
        { configBytes: configBytes(stack, unique()), layers: stack.map((l) => l.id), names, owner: 0 },
        lease,
      )
      await release()
      expect(await stores.images.remove(image.id)).toEqual({
        imageId: image.id,
        untagged: names,
        removedLayers: [tops[1]?.diffId, tops[0]?.diffId],
        removedImage: true,
      })
      expect(await stores.images.get(image.id)).toBeUndefined()
      for (const name of names) expect(await stores.images.get(name)).toBeUndefined()
      expect((await stores.images.get(keeper.id))?.damaged).toBe(false)
      await expect(stores.images.remove(image.id)).rejects.toMatchObject({ code: 'ISB_IMAGE_NOT_FOUND' })
    })

    test('does not remove an image another operation holds', async () => {
      const name = `${unique()}:1`
      const image = await put([name])
      await release()
      const other = await stores.layers.acquireLease({ uid: 9, purpose: 'push 42' })
      expect((await stores.images.resolve(name, other))?.id).toBe(image.id)
      const refused = stores.images.remove(image.id)
      await expect(refused).rejects.toMatchObject({ code: 'ISB_IMAGE_IN_USE' })
      await expect(refused).rejects.toThrow(/push 42/)
      expect((await stores.images.get(name))?.id).toBe(image.id)
      await stores.layers.releaseLease(other)
      expect((await stores.images.remove(image.id)).removedImage).toBe(true)
    })

    test('leaves layers that a lease holds when their image goes', async () => {
      const image = await put([])
      await release()
      const other = await newLease()
      const layer = image.layers[0]
      if (layer === undefined) throw new Error('no layer')
      await stores.layers.hold([layer.id], other)
      expect((await stores.images.remove(image.id)).removedLayers).toEqual([])
      expect(await stores.layers.hold([layer.id], other)).toEqual([layer])
      await stores.layers.releaseLease(other)
    })

    test('refuses a config that is not one', async () => {
      const image = { layers: [], names: [], owner: 0 }
      const codes: [string | Uint8Array, string][] = [
        ['', 'ISB_ARCHIVE_INVALID'],
        ['[]', 'ISB_ARCHIVE_INVALID'],
        ['{"rootfs":{}}', 'ISB_ARCHIVE_INVALID'],
        ['{"rootfs":{"diff_ids":["sha256:XY"]}}', 'ISB_ARCHIVE_INVALID'],
        [Buffer.alloc(4 * 1024 * 1024 + 1, 0x20), 'ISB_LIMIT_EXCEEDED'],
      ]
      for (const [bytes, code] of codes) {
        await expect(
          stores.images.put({ ...image, configBytes: Buffer.from(bytes) }, lease),
        ).rejects.toMatchObject({ code })
      }
    })

    test('refuses layers that are not those of the config, and stores nothing', async () => {
      const layer = await publishContent(stores, lease, unique())
      const other = await publishContent(stores, lease, unique())
      const name = `${unique()}:1`
      const bytes = configBytes([layer], unique())
      for (const layers of [[other.id], [], [layer.id, layer.id]]) {
        await expect(
          stores.images.put({ configBytes: bytes, layers, names: [name], owner: 0 }, lease),
        ).rejects.toThrow()
      }
      expect(await stores.images.get(name)).toBeUndefined()
    })

    test('stores a stack that has the same layer twice', async () => {
      const layer = await publishContent(stores, lease, unique())
      const image = await stores.images.put(
        {
          configBytes: configBytes([layer, layer], unique()),
          layers: [layer.id, layer.id],
          names: [],
          owner: 0,
        },
        lease,
      )
      expect(image.layers).toEqual([layer, layer])
      await release()
      expect((await stores.images.remove(image.id)).removedLayers).toEqual([layer.diffId])
    })

    test('takes nothing from an operation that has ended', async () => {
      const ended = await newLease()
      await stores.layers.releaseLease(ended)
      await expect(
        stores.images.put({ configBytes: configBytes([]), layers: [], names: [], owner: 0 }, ended),
      ).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
    })

    test('lists the newest first, with all names', async () => {
      const [a, b] = [`${unique()}:1`, `${unique()}:2`].sort() as [string, string]
      const old = await put([], { created: '1999-01-01T00:00:00Z' })
      const young = await put([b, a], { created: '2100-01-01T00:00:00Z' })
      const listed = await stores.images.list()
      expect(listed[0]).toEqual({
        id: young.id,
        names: [a, b],
        createdAt: young.createdAt,
        size: young.size,
        owner: 7,
      })
      expect(listed.at(-1)?.id).toBe(old.id)
      expect(new Set(listed.map(({ id }) => id)).size).toBe(listed.length)
    })

    test('serves many callers at once, each with its own outcome', async () => {
      const layer = await publishContent(stores, lease, unique())
      const repo = unique()
      const outcomes = await Promise.allSettled(
        Array.from({ length: 60 }, (_, index) =>
          index % 3 === 0
            ? stores.images.untag(`${repo}:none${index}`)
            : stores.images.put(
                {
                  configBytes: configBytes([layer], `${repo}${index}`),
                  layers: [layer.id],
                  names: [`${repo}:v${index}`],
                  owner: 0,
                },
                lease,
              ),
        ),
      )
      outcomes.forEach((outcome, index) => {
        expect(outcome.status).toBe(index % 3 === 0 ? 'rejected' : 'fulfilled')
      })
      const names = (await stores.images.list()).flatMap((image) => image.names)
      expect(names.filter((name) => name.startsWith(`${repo}:`))).toHaveLength(40)
    })
  })
}
