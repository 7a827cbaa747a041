import type { CacheIndex, StoredRecord } from '../../packages/builder-daemon/src/ports/cache-index.js'
import type { ImageStore } from '../../packages/builder-daemon/src/ports/image-store.js'
import type { LayerId, LayerRecord, LayerStore } from '../../packages/builder-daemon/src/ports/layer-store.js'

/** Layers without files, that tell when one is used which no lease protects. */
export interface MemoryLayers extends LayerStore {
  readonly cache: CacheIndex
  readonly images: ImageStore
  /** Fails unless a lease protects all of them, as `<directory>/diff`. */
  requireHeld(directories: readonly string[]): void
  requireLinks(links: readonly string[]): void
  /** Removes every layer that no lease protects. */
  prune(): number
  /** Images. */
  stored(): number
  left(): { readonly leases: readonly string[]; readonly staging: readonly string[] }
}

export function createMemoryLayers(): MemoryLayers {
  let last = 0
  let images = 0
  const leases = new Map<string, Set<string>>()
  const purposes = new Map<string, string>()
  const staging = new Map<string, string>()
  const layers = new Map<string, LayerRecord>()
  const projects = new Map<string, string>()
  const records = new Map<string, StoredRecord[]>()
  const contents = new Map<string, string>()

  function requireLayer(id: string): void {
    if (!layers.has(id)) throw new Error(`layer ${id} is used after its end`)
    for (const held of leases.values()) if (held.has(id)) return
    throw new Error(`layer ${id} is used unprotected`)
  }

  const heldBy = (lease: { readonly id: string }): Set<string> => {
    const held = leases.get(lease.id)
    if (held === undefined) throw new Error(`lease ${lease.id} is used after its end`)
    return held
  }

  return {
    async acquireLease({ purpose }) {
      const id = `lease ${++last}`
      leases.set(id, new Set())
      purposes.set(id, purpose)
      return { id }
    },
    async releaseLease(lease) {
      heldBy(lease)
      leases.delete(lease.id)
    },
    async stage(lease) {
      heldBy(lease)
      const id = `${String(++last).padStart(8, '0')}`
      staging.set(id, lease.id)
      return { id, root: `staging/${id}`, upper: `staging/${id}/upper`, work: `staging/${id}/work` }
    },
    async publish({ id: staged }, sealed, lease) {
      if (!staging.delete(staged)) throw new Error(`staging directory ${staged} is not there any more`)
      const record = { ...sealed, id: `layer-${++last}` as LayerId }
      layers.set(record.id, record)
      if (typeof sealed.contentId === 'string') contents.set(record.id, sealed.contentId)
      heldBy(lease).add(record.id)
      return record
    },
    async abandon({ id }) {
      staging.delete(id)
    },
    findByDiffId: async () => undefined,
    contentIds: async (ids) => ids.map((id) => contents.get(id) ?? null),
    async setDiffId(id, diffId, tarSize, contentId) {
      requireLayer(id)
      if (typeof contentId === 'string') contents.set(id, contentId)
      const record = layers.get(id)
      if (record !== undefined) layers.set(id, { ...record, diffId, tarSize })
    },
    async holdReady(ids, lease) {
      for (const id of ids) if (layers.has(id)) heldBy(lease).add(id)
    },
    async hold(ids, lease) {
      const found = ids.flatMap((id) => layers.get(id) ?? [])
      for (const { id } of found) heldBy(lease).add(id)
      return found
    },
    reportDamage: async () => undefined,
    directory: (id) => `layers/${id}`,
    shortLink: (id) => `l/${id}`,
    cache: {
      async lookup(uid, shape) {
        const found = records.get(`${uid} ${shape}`) ?? []
        return found.map((record) => ({
          ...record,
          usable: record.layer === null || layers.has(record.layer),
        }))
      },
      async store(uid, record) {
        if (record.layer !== null && !layers.has(record.layer)) return undefined
        const key = `${uid} ${record.shape}`
        const id = ++last
        const stored = { ...record, id, foreign: false, usable: true, evictedAt: undefined }
        records.set(key, [stored, ...(records.get(key) ?? [])].slice(0, 50))
        return id
      },
      learn: async () => undefined,
      evictions: async () => new Map(),
      layersOf: async (_, ids) =>
        [...records.values()].flat().flatMap(({ id, layer }) => (ids.includes(id) ? (layer ?? []) : [])),
      recall: async (uid, project) => projects.get(`${uid} ${project}`),
      async remember(uid, project, document) {
        projects.set(`${uid} ${project}`, document)
      },
    },
    images: {
      async put(image: { readonly layers: readonly LayerId[] }, lease: { readonly id: string }) {
        const loose = image.layers.filter((id) => !heldBy(lease).has(id))
        if (loose.length > 0) throw new Error(`layers ${loose.join(', ')} of an image are unprotected`)
        images++
        return { id: 'image', layers: image.layers }
      },
      get: async () => undefined,
    } as unknown as ImageStore,
    requireHeld(directories) {
      for (const directory of directories) requireLayer(directory.replace(/^layers\/|\/diff$/g, ''))
    },
    requireLinks(links) {
      for (const link of links) requireLayer(link.replace(/^l\//, ''))
    },
    prune() {
      const held = new Set([...leases.values()].flatMap((ids) => [...ids]))
      const gone = [...layers.keys()].filter((id) => !held.has(id))
      for (const id of gone) layers.delete(id)
      return gone.length
    },
    stored: () => images,
    left: () => ({
      leases: [...leases.keys()].map((id) => purposes.get(id) ?? id),
      staging: [...staging.keys()],
    }),
  }
}
