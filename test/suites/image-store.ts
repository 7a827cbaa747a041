import { describe, expect, test } from 'vitest'
import { type OpenStores, useImageBench } from '../support/image-bench.js'
import { configBytes, publishContent } from '../support/temporary-store.js'

/** What every ImageStore promises. */
export function imageStoreSuite(name: string, open: () => Promise<OpenStores>): void {
  describe(`${name} as an image store`, () => {
    const bench = useImageBench(open)
    const { unique, newLease, put, release } = bench

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
      for (const key of [image.id, a, b]) expect(await bench.stores.images.get(key)).toEqual(image)
      expect(await bench.stores.images.get(a.slice(0, -1))).toBeUndefined()
      expect(await bench.stores.images.get(image.id.slice(0, 63))).toBeUndefined()
    })

    test('moves a name to the image stored last and leaves the other one nameless', async () => {
      const name = `${unique()}:1`
      const first = await put([name])
      const second = await put([name])
      expect((await bench.stores.images.get(name))?.id).toBe(second.id)
      expect((await bench.stores.images.get(first.id))?.names).toEqual([])
      expect((await bench.stores.images.list()).find(({ id }) => id === first.id)?.names).toEqual([])
    })

    test('adds names when the same image is stored again', async () => {
      const layer = await publishContent(bench.stores, bench.lease, unique())
      const bytes = configBytes([layer], unique())
      const [a, b] = [`${unique()}:1`, `${unique()}:1`]
      const image = { configBytes: bytes, layers: [layer.id], owner: 1 }
      await bench.stores.images.put({ ...image, names: [a] }, bench.lease)
      const again = await bench.stores.images.put({ ...image, names: [b], owner: 2 }, bench.lease)
      expect(again.names).toEqual([a, b].sort())
      expect(again.owner).toBe(1)
    })

    test('an image that is stored as it is there already is protected like a new one', async () => {
      const layer = await publishContent(bench.stores, bench.lease, unique())
      const [name, other] = [`${unique()}:1`, `${unique()}:1`]
      const image = {
        configBytes: configBytes([layer], unique()),
        layers: [layer.id],
        names: [name, other],
        owner: 1,
      }
      const first = await bench.stores.images.put(image, bench.lease)
      const own = await newLease()
      await bench.stores.images.put({ ...image, names: [] }, own)
      expect(await bench.stores.images.put(image, own)).toEqual(first)
      await release()
      const removing = bench.stores.images.remove(first.id, 1)
      await expect(removing).rejects.toMatchObject({ code: 'ISB_IMAGE_IN_USE' })
      // A name that went is given again, and root takes what it names.
      await bench.stores.images.untag(other, 1)
      expect((await bench.stores.images.put(image, own)).names).toEqual([name, other].sort())
      await bench.stores.images.put({ ...image, owner: 0 }, own)
      await expect(bench.stores.images.untag(name, 1)).rejects.toMatchObject({
        code: 'ISB_PERMISSION_DENIED',
      })
      await bench.stores.layers.releaseLease(own)
      await expect(bench.stores.images.put(image, own)).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
    })

    test('stores several images at once, in their order, the last one with a name it shares', async () => {
      const layer = await publishContent(bench.stores, bench.lease, unique())
      const [shared, own] = [`${unique()}:1`, `${unique()}:1`]
      const image = (names: readonly string[]) => ({
        ...{ configBytes: configBytes([layer], unique()), layers: [layer.id], names, owner: 7 },
      })
      const first = image([shared, own])
      const images = [first, image([shared]), { ...first, names: [] }]
      const records = await bench.stores.images.putAll(images, bench.lease)
      expect(records.map(({ configBytes: bytes }) => Buffer.from(bytes))).toEqual(
        images.map(({ configBytes: bytes }) => bytes),
      )
      expect(records.map(({ names }) => names)).toEqual([[own], [shared], [own]])
      expect(await bench.stores.images.putAll([], bench.lease)).toEqual([])
    })

    test('stores all of several images or none', async () => {
      const taken = `${unique()}:1`
      await put([taken])
      const image = (names: readonly string[]) => ({
        ...{ configBytes: configBytes([], unique()), layers: [], names, owner: 8 },
      })
      const before = (await bench.stores.images.list()).length
      const storing = bench.stores.images.putAll(
        [image([`${unique()}:1`]), image([taken]), image([])],
        bench.lease,
      )
      await expect(storing).rejects.toMatchObject({ code: 'ISB_PERMISSION_DENIED' })
      expect(await bench.stores.images.list()).toHaveLength(before)
    })

    test('several images that are stored by several at once do not wait for each other in a circle', async () => {
      const images = Array.from({ length: 6 }, () => ({
        ...{ configBytes: configBytes([], unique()), layers: [], names: [], owner: 7 },
      }))
      const orders = [images, [...images].reverse(), images.slice(3), images.slice(0, 2).reverse()]
      const stored = await Promise.all(
        orders.map((several) => bench.stores.images.putAll(several, bench.lease)),
      )
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
      expect((await bench.stores.images.resolve(repo))?.id).toBe(latest.id)
      expect((await bench.stores.images.resolve(`${repo}:latest`))?.id).toBe(latest.id)
      expect((await bench.stores.images.resolve(prefix))?.id).toBe(other.id)
      await bench.stores.images.untag(`${prefix}:latest`)
      expect((await bench.stores.images.resolve(prefix))?.id).toBe(latest.id)
      expect((await bench.stores.images.resolve(`sha256:${latest.id}`))?.id).toBe(latest.id)
      expect(await bench.stores.images.resolve('no-such-image')).toBeUndefined()
      expect(await bench.stores.images.resolve('')).toBeUndefined()
    })

    test('refuses an ambiguous ID prefix', async () => {
      const seen = new Map<string, string>()
      for (;;) {
        const { id } = await put([], { contents: [] })
        const digit = id.slice(0, 1)
        const before = seen.get(digit)
        if (before !== undefined && before !== id) {
          await expect(bench.stores.images.resolve(digit)).rejects.toMatchObject({
            code: 'ISB_REFERENCE_INVALID',
          })
          return
        }
        seen.set(digit, id)
      }
    })

    test('does not take LIKE patterns or SQL in a reference for anything', async () => {
      await put([`${unique()}:1`])
      for (const reference of ['%', '_', "' OR 1=1 --", '\0', 'a%', '🦊']) {
        expect(await bench.stores.images.resolve(reference)).toBeUndefined()
        expect(await bench.stores.images.get(reference)).toBeUndefined()
      }
    })

    test('removes an image with all names, and the layers only it used, top first', async () => {
      const [shared, own1, own2] = [unique(), unique(), unique()]
      const base = await publishContent(bench.stores, bench.lease, shared)
      const tops = [
        await publishContent(bench.stores, bench.lease, own1),
        await publishContent(bench.stores, bench.lease, own2),
      ]
      const keeper = await bench.stores.images.put(
        { configBytes: configBytes([base], unique()), layers: [base.id], names: [], owner: 0 },
        bench.lease,
      )
      const names = [`${unique()}:1`, `${unique()}:1`].sort()
      const stack = [base, ...tops]
      const image = await bench.stores.images.put(
        { configBytes: configBytes(stack, unique()), layers: stack.map((l) => l.id), names, owner: 0 },
        bench.lease,
      )
      await release()
      expect(await bench.stores.images.remove(image.id)).toEqual({
        imageId: image.id,
        untagged: names,
        removedLayers: [tops[1]?.diffId, tops[0]?.diffId],
        removedImage: true,
      })
      expect(await bench.stores.images.get(image.id)).toBeUndefined()
      for (const name of names) expect(await bench.stores.images.get(name)).toBeUndefined()
      expect((await bench.stores.images.get(keeper.id))?.damaged).toBe(false)
      await expect(bench.stores.images.remove(image.id)).rejects.toMatchObject({
        code: 'ISB_IMAGE_NOT_FOUND',
      })
    })

    test('does not remove an image another operation holds', async () => {
      const name = `${unique()}:1`
      const image = await put([name])
      await release()
      const other = await bench.stores.layers.acquireLease({ uid: 9, purpose: 'push 42' })
      expect((await bench.stores.images.resolve(name, other))?.id).toBe(image.id)
      const refused = bench.stores.images.remove(image.id)
      await expect(refused).rejects.toMatchObject({ code: 'ISB_IMAGE_IN_USE' })
      await expect(refused).rejects.toThrow(/push 42/)
      expect((await bench.stores.images.get(name))?.id).toBe(image.id)
      await bench.stores.layers.releaseLease(other)
      expect((await bench.stores.images.remove(image.id)).removedImage).toBe(true)
    })

    test('leaves layers that a lease holds when their image goes', async () => {
      const image = await put([])
      await release()
      const other = await newLease()
      const layer = image.layers[0]
      if (layer === undefined) throw new Error('no layer')
      await bench.stores.layers.hold([layer.id], other)
      expect((await bench.stores.images.remove(image.id)).removedLayers).toEqual([])
      expect(await bench.stores.layers.hold([layer.id], other)).toEqual([layer])
      await bench.stores.layers.releaseLease(other)
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
          bench.stores.images.put({ ...image, configBytes: Buffer.from(bytes) }, bench.lease),
        ).rejects.toMatchObject({ code })
      }
    })

    test('refuses layers that are not those of the config, and stores nothing', async () => {
      const layer = await publishContent(bench.stores, bench.lease, unique())
      const other = await publishContent(bench.stores, bench.lease, unique())
      const name = `${unique()}:1`
      const bytes = configBytes([layer], unique())
      for (const layers of [[other.id], [], [layer.id, layer.id]]) {
        await expect(
          bench.stores.images.put({ configBytes: bytes, layers, names: [name], owner: 0 }, bench.lease),
        ).rejects.toThrow()
      }
      expect(await bench.stores.images.get(name)).toBeUndefined()
    })

    test('stores a stack that has the same layer twice', async () => {
      const layer = await publishContent(bench.stores, bench.lease, unique())
      const image = await bench.stores.images.put(
        {
          configBytes: configBytes([layer, layer], unique()),
          layers: [layer.id, layer.id],
          names: [],
          owner: 0,
        },
        bench.lease,
      )
      expect(image.layers).toEqual([layer, layer])
      await release()
      expect((await bench.stores.images.remove(image.id)).removedLayers).toEqual([layer.diffId])
    })

    test('takes nothing from an operation that has ended', async () => {
      const ended = await newLease()
      await bench.stores.layers.releaseLease(ended)
      await expect(
        bench.stores.images.put({ configBytes: configBytes([]), layers: [], names: [], owner: 0 }, ended),
      ).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
    })

    test('lists the newest first, with all names', async () => {
      const [a, b] = [`${unique()}:1`, `${unique()}:2`].sort() as [string, string]
      const old = await put([], { created: '1999-01-01T00:00:00Z' })
      const young = await put([b, a], { created: '2100-01-01T00:00:00Z' })
      const listed = await bench.stores.images.list()
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
      const layer = await publishContent(bench.stores, bench.lease, unique())
      const repo = unique()
      const outcomes = await Promise.allSettled(
        Array.from({ length: 60 }, (_, index) =>
          index % 3 === 0
            ? bench.stores.images.untag(`${repo}:none${index}`)
            : bench.stores.images.put(
                {
                  configBytes: configBytes([layer], `${repo}${index}`),
                  layers: [layer.id],
                  names: [`${repo}:v${index}`],
                  owner: 0,
                },
                bench.lease,
              ),
        ),
      )
      outcomes.forEach((outcome, index) => {
        expect(outcome.status).toBe(index % 3 === 0 ? 'rejected' : 'fulfilled')
      })
      const names = (await bench.stores.images.list()).flatMap((image) => image.names)
      expect(names.filter((name) => name.startsWith(`${repo}:`))).toHaveLength(40)
    })
  })
}
