import { randomBytes } from 'node:crypto'
import { mkdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { digestHex, digestOf } from '@isula-build/shared/oci/digest.js'
import { decodeImageConfig } from '@isula-build/shared/oci/image-config-decode.js'
import type { ImageRecord, ImageStore } from '../ports/image-store.js'
import type { LayerId, LayerRecord, LayerStore, StagingLayer } from '../ports/layer-store.js'

/** For tests: layers in real directories below `root`, everything else in memory. */
export interface FakeStore {
  readonly layers: LayerStore
  readonly images: ImageStore
  readonly records: ReadonlyMap<LayerId, LayerRecord>
  /** Staging directories that were neither published nor abandoned. */
  readonly staged: ReadonlySet<string>
  /** Layers that were reported as damaged. */
  readonly damaged: ReadonlySet<LayerId>
}

export function createFakeStore(root: string): FakeStore {
  const records = new Map<LayerId, LayerRecord>()
  const images = new Map<string, ImageRecord>()
  const staged = new Set<string>()
  const damaged = new Set<LayerId>()
  const refused = async (): Promise<never> => {
    throw new Error('not part of this test')
  }
  const find = (id: LayerId): LayerRecord => {
    const record = records.get(id)
    if (record === undefined) throw new Error(`no layer ${id}`)
    return record
  }
  const directory = (id: LayerId): string => join(root, 'layers', id)
  const layers: LayerStore = {
    acquireLease: async () => ({ id: 'lease' }),
    releaseLease: async () => {},
    stage: async () => {
      const id = randomBytes(16).toString('hex') as LayerId
      const staging: StagingLayer = {
        id,
        root: join(root, 'staging', id),
        upper: join(root, 'staging', id, 'diff'),
        work: join(root, 'staging', id, 'work'),
      }
      await mkdir(staging.upper, { recursive: true })
      staged.add(id)
      return staging
    },
    publish: async (staging, sealed) => {
      const id = staging.id as LayerId
      await mkdir(join(root, 'layers'), { recursive: true })
      await rename(staging.root, directory(id))
      staged.delete(id)
      const record: LayerRecord = { id, ...sealed }
      records.set(id, record)
      return record
    },
    abandon: async (staging) => {
      staged.delete(staging.id)
      await rm(staging.root, { recursive: true })
    },
    findByDiffId: async (diffId, parentKey) =>
      [...records.values()].find(
        (record) => record.diffId === diffId && (record.parentKey ?? parentKey) === parentKey,
      ),
    setDiffId: async (id, diffId, tarSize) => {
      records.set(id, { ...find(id), diffId, tarSize })
    },
    contentIds: async (ids) => ids.map((id) => records.get(id)?.diffId ?? null),
    holdReady: refused,
    hold: async (ids) => ids.map(find),
    reportDamage: async (id) => void damaged.add(id),
    directory,
    shortLink: (id) => `l/${id}`,
  }
  const imageStore: ImageStore = {
    put: async (image) => {
      const id = digestHex(digestOf(image.configBytes))
      for (const [other, record] of images) {
        images.set(other, { ...record, names: record.names.filter((name) => !image.names.includes(name)) })
      }
      const names = [...new Set([...(images.get(id)?.names ?? []), ...image.names])].sort()
      const config = decodeImageConfig(image.configBytes)
      const own = image.layers.map(find)
      const size = own.reduce((sum, layer) => sum + (layer.tarSize ?? 0), image.configBytes.length)
      const { configBytes, owner } = image
      const record = {
        id,
        configBytes,
        config,
        layers: own,
        names,
        createdAt: 0,
        size,
        owner,
        damaged: false,
      }
      images.set(id, record)
      return record
    },
    putAll: async (several, lease) => {
      const stored: ImageRecord[] = []
      for (const image of several) stored.push(await imageStore.put(image, lease))
      return stored
    },
    get: async (idOrName) =>
      images.get(idOrName) ?? [...images.values()].find((record) => record.names.includes(idOrName)),
    resolve: refused,
    list: async () => [...images.values()],
    tag: refused,
    untag: refused,
    checkName: refused,
    remove: refused,
  }
  return { layers, images: imageStore, records, staged, damaged }
}
