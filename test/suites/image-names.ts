import { describe, expect, test } from 'vitest'
import { type OpenStores, useImageBench } from '../support/image-bench.js'
import { configBytes, publishContent } from '../support/temporary-store.js'

/** What every ImageStore promises of names: whose they are, who moves and removes them. */
export function imageNamesSuite(name: string, open: () => Promise<OpenStores>): void {
  describe(`${name} as a keeper of names`, () => {
    const bench = useImageBench(open)
    const { unique, put, release } = bench

    test('tags, retags and untags', async () => {
      const [first, second] = [await put([]), await put([])]
      const name = `${unique()}:1`
      await bench.stores.images.tag(first.id, name)
      expect((await bench.stores.images.get(name))?.id).toBe(first.id)
      await bench.stores.images.tag(second.id, name)
      expect((await bench.stores.images.get(name))?.id).toBe(second.id)
      expect((await bench.stores.images.get(first.id))?.names).toEqual([])
      await bench.stores.images.untag(name)
      expect(await bench.stores.images.get(name)).toBeUndefined()
      await expect(bench.stores.images.untag(name)).rejects.toMatchObject({ code: 'ISB_IMAGE_NOT_FOUND' })
      await expect(bench.stores.images.tag('0'.repeat(64), name)).rejects.toMatchObject({
        code: 'ISB_IMAGE_NOT_FOUND',
      })
    })

    test('keeps the names of each user from the others, but not from root', async () => {
      const [alice, bob] = [101, 102]
      const store = async (names: readonly string[], owner: number) => {
        const layers = [await publishContent(bench.stores, bench.lease, unique())]
        const image = { layers: layers.map(({ id }) => id), names, owner }
        return bench.stores.images.put({ ...image, configBytes: configBytes(layers, unique()) }, bench.lease)
      }
      const [name, other] = [`${unique()}:1`, `${unique()}:1`]
      const first = await store([name], alice)
      const denied = { code: 'ISB_PERMISSION_DENIED' }
      await expect(store([other, name], bob)).rejects.toMatchObject(denied)
      expect(await bench.stores.images.get(other)).toBeUndefined()
      const second = await store([other], bob)
      await expect(bench.stores.images.tag(second.id, name, bob)).rejects.toMatchObject(denied)
      await expect(bench.stores.images.untag(name, bob)).rejects.toMatchObject(denied)
      await expect(bench.stores.images.remove(first.id, bob)).rejects.toMatchObject(denied)
      expect((await bench.stores.images.get(name))?.id).toBe(first.id)
      await bench.stores.images.tag(second.id, name)
      expect((await bench.stores.images.get(name))?.id).toBe(second.id)
      // It is root's now.
      await expect(bench.stores.images.untag(name, alice)).rejects.toMatchObject(denied)
    })

    test('an image that several users named stays until the last of them removes it', async () => {
      const [alice, bob, eve] = [101, 102, 103]
      const layers = [await publishContent(bench.stores, bench.lease, unique())]
      const configured = configBytes(layers, unique())
      const names = { alice: `${unique()}:1`, bob: `${unique()}:1`, both: `${unique()}:1` }
      const store = (given: readonly string[], owner: number) =>
        bench.stores.images.put(
          { configBytes: configured, layers: layers.map(({ id }) => id), names: given, owner },
          bench.lease,
        )
      const { id } = await store([names.alice, names.both], alice)
      expect(await store([names.bob, names.both], bob)).toMatchObject({ id, owner: alice })
      await release()
      await expect(bench.stores.images.remove(id, eve)).rejects.toMatchObject({
        code: 'ISB_PERMISSION_DENIED',
      })
      expect(await bench.stores.images.remove(id, alice)).toEqual({
        imageId: id,
        untagged: [names.alice, names.both].sort(),
        removedLayers: [],
        removedImage: false,
      })
      expect(await bench.stores.images.get(id)).toMatchObject({ names: [names.bob], owner: bob })
      await expect(bench.stores.images.remove(id, alice)).rejects.toMatchObject({
        code: 'ISB_PERMISSION_DENIED',
      })
      expect(await bench.stores.images.remove(id, bob)).toMatchObject({ removedImage: true })
      expect(await bench.stores.images.get(id)).toBeUndefined()
    })

    test('an image meant by a name keeps the names that it gets meanwhile', async () => {
      const [alice, bob] = [101, 102]
      const [base, mine] = [`${unique()}:1`, `${unique()}:1`]
      const layers = [await publishContent(bench.stores, bench.lease, unique())]
      const image = { configBytes: configBytes(layers, unique()), layers: layers.map(({ id }) => id) }
      const { id } = await bench.stores.images.put({ ...image, names: [base], owner: alice }, bench.lease)
      await release()
      await bench.stores.images.tag(id, mine, bob)
      const denied = { code: 'ISB_PERMISSION_DENIED', message: expect.stringContaining(base) }
      await expect(bench.stores.images.remove(id, bob, base)).rejects.toMatchObject(denied)
      expect((await bench.stores.images.get(id))?.names).toEqual([base, mine].sort())
      expect(await bench.stores.images.remove(id, alice, base)).toEqual({
        ...{ imageId: id, untagged: [base], removedLayers: [], removedImage: false },
      })
      expect(await bench.stores.images.get(id)).toMatchObject({ names: [mine], owner: bob })
      await expect(bench.stores.images.remove(id, bob, base)).rejects.toMatchObject({
        code: 'ISB_IMAGE_NOT_FOUND',
      })
      expect(await bench.stores.images.remove(id, bob, mine)).toMatchObject({ removedImage: true })
    })

    test('tells beforehand whose names may not be given', async () => {
      const [alice, bob] = [101, 102]
      const name = `${unique()}:1`
      const layers = [await publishContent(bench.stores, bench.lease, unique())]
      const image = { configBytes: configBytes(layers, unique()), layers: layers.map(({ id }) => id) }
      const { id } = await bench.stores.images.put({ ...image, names: [name], owner: alice }, bench.lease)
      const other = 'f'.repeat(64)
      await expect(bench.stores.images.checkName(other, name, bob)).rejects.toMatchObject({
        ...{
          code: 'ISB_PERMISSION_DENIED',
          message: `uid 102 may not take the name "${name}": it belongs to uid 101`,
        },
      })
      await bench.stores.images.checkName(id, name, bob)
      for (const by of [alice, 0]) await bench.stores.images.checkName(other, name, by)
      await bench.stores.images.checkName(other, `${unique()}:1`, bob)
      expect(await bench.stores.images.get(name)).toMatchObject({ id, names: [name] })
    })

    test('refuses names that are not repo:tag', async () => {
      const image = await put([])
      for (const name of ['', 'plain', 'a b:1', 'a:', ':1', 'a:-x', 'a\n:1', `a:${'x'.repeat(129)}`]) {
        await expect(bench.stores.images.tag(image.id, name)).rejects.toMatchObject({
          code: 'ISB_REFERENCE_INVALID',
        })
      }
    })
  })
}
