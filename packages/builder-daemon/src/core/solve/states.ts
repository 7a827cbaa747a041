import { createHash } from 'node:crypto'
import type { LayerId, LayerStore, Lease } from '../../ports/layer-store.js'
import type { IdentifiedLayer } from '../../ports/layer-worker.js'
import type { Logger } from '../../ports/logger.js'

/** What stacks of layers hold, for telling that two of them are the same but for the times of their files. */
export interface LayerStates {
  /** Hashes a layer of this build, once; with `identify` for `of`, too. */
  seal(id: LayerId, identify: boolean): Promise<IdentifiedLayer>
  /** Takes down what is known already. */
  note(id: LayerId, contentId: string): void
  /** True when they cannot hold the same, as far as that is known without hashing. */
  differ(a: readonly LayerId[], b: readonly LayerId[]): Promise<boolean>
  /** Digest of what the stack holds; undefined where it would have to be hashed first. */
  known(stack: readonly LayerId[]): Promise<string | undefined>
  /** The same, hashing what was not hashed yet; undefined when a layer is gone. */
  of(stack: readonly LayerId[]): Promise<string | undefined>
}

export interface StateServices {
  readonly layers: LayerStore
  /** Hashes a layer that is held, and records what it found. */
  readonly hash: (id: LayerId, identify: boolean) => Promise<IdentifiedLayer>
  readonly lease: Lease
  readonly log: Logger
}

export function createLayerStates({ layers, hash: hashLayer, lease, log }: StateServices): LayerStates {
  const contents = new Map<LayerId, string>()
  const sealing = new Map<LayerId, Promise<IdentifiedLayer>>()
  const identifying = new Map<LayerId, Promise<string | undefined>>()

  const hash = async (id: LayerId, identify: boolean): Promise<IdentifiedLayer> => {
    const sealed = await hashLayer(id, identify)
    if (sealed.contentId !== null) contents.set(id, sealed.contentId)
    return sealed
  }

  const seal = (id: LayerId, identify: boolean): Promise<IdentifiedLayer> => {
    let running = sealing.get(id)
    if (running === undefined) {
      running = hash(id, identify)
      running.catch(() => undefined)
      sealing.set(id, running)
    }
    return running
  }

  /** undefined when the layer is gone: what is cached over it is then of no use. */
  const identify = async (id: LayerId): Promise<string | undefined> => {
    try {
      const sealed = await sealing.get(id)
      if (typeof sealed?.contentId === 'string') return sealed.contentId
      if ((await layers.hold([id], lease)).length === 0) return undefined
      return (await hash(id, true)).contentId ?? undefined
    } catch (error) {
      log.debug('cache.not-identified', { layer: id, error: String(error) })
      return undefined
    }
  }

  const identifyOnce = (id: LayerId): Promise<string | undefined> => {
    let running = identifying.get(id)
    if (running === undefined) {
      running = identify(id)
      identifying.set(id, running)
    }
    return running
  }

  const read = async (stack: readonly LayerId[]): Promise<readonly LayerId[]> => {
    const unknown = stack.filter((id) => !contents.has(id))
    const found = unknown.length === 0 ? [] : await layers.contentIds(unknown)
    for (const [i, id] of unknown.entries()) {
      const content = found[i]
      if (typeof content === 'string') contents.set(id, content)
    }
    return unknown.filter((id) => !contents.has(id))
  }

  const digest = (stack: readonly LayerId[]): string =>
    createHash('sha256')
      .update(JSON.stringify(stack.map((id) => contents.get(id))))
      .digest('hex')

  return {
    seal,
    async differ(a, b) {
      if (a.length !== b.length) return true
      const pairs = a.flatMap((id, i) => (id === b[i] ? [] : [[id, b[i] ?? id] as const]))
      await read(pairs.flat())
      return pairs.some(([one, other]) => {
        const [content, others] = [contents.get(one), contents.get(other)]
        return content !== undefined && others !== undefined && content !== others
      })
    },
    note: (id, contentId) => void contents.set(id, contentId),
    async known(stack) {
      return (await read(stack)).length === 0 ? digest(stack) : undefined
    },
    async of(stack) {
      const missing = [...new Set(await read(stack))]
      const found = await Promise.all(missing.map(identifyOnce))
      for (const [i, id] of missing.entries()) {
        const content = found[i]
        if (content === undefined) return undefined
        contents.set(id, content)
      }
      return digest(stack)
    },
  }
}
