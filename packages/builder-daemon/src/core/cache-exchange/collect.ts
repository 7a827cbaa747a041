import type { DiffId } from '@isula-build/shared/oci/digest.js'
import type { LayerId } from '../../ports/layer-store.js'
import type { SolvedPlan } from '../build/commit.js'
import type { SavedLayer } from '../images/saved-layers.js'
import type { Plan, Vertex, VertexId } from '../plan/plan.js'
import type { VertexFacts } from '../solve/explain.js'
import {
  type CacheDocument,
  type CacheLayer,
  type CacheStack,
  type CacheStep,
  cacheLimits,
} from './document.js'

export type CacheMode = 'min' | 'max'

/** What a cache is written from. The layers stay as long as the lease of their build. */
export interface CacheContent {
  readonly document: CacheDocument
  /** In the order of the places that the document gives as blobs. */
  readonly layers: readonly SavedLayer[]
}

interface ChosenStep {
  readonly facts: VertexFacts
  readonly origin: NonNullable<VertexFacts['origin']>
  readonly layer: LayerId | null
  /** What it reads is to be compared layer by layer: no content key covers it. */
  readonly needsInputs: boolean
}

/**
 * What the steps of a build gave: of all of them, or of those the image consists of. What a secret, an ssh agent or
 * credentials had a part in is left out. Layers that were never hashed are hashed now.
 */
export async function collectCache(plans: readonly SolvedPlan[], mode: CacheMode): Promise<CacheContent> {
  const draft = createDraft()
  for (const plan of plans) {
    const steps = chosenSteps(plan, mode)
    const layers = await identified(plan, steps)
    for (const { layer } of steps) {
      const record = layer === null ? undefined : layers.get(layer)
      if (record !== undefined) draft.export(record)
    }
    for (const step of steps) addStep(draft, step, layers)
  }
  return draft.content()
}

function chosenSteps({ plan, results, environment }: SolvedPlan, mode: CacheMode): readonly ChosenStep[] {
  return chosenVertices(plan, mode).flatMap((vertex): readonly ChosenStep[] => {
    const snapshot = results.get(vertex.id)
    const facts = environment.facts.get(vertex.id)
    if (snapshot === undefined || snapshot.tainted || facts?.origin === undefined) return []
    if (facts.isNeverCached === true) return []
    const needsInputs = vertex.kind === 'run' && facts.origin.inputs.length > 0
    return [{ facts, origin: facts.origin, layer: snapshot.own?.id ?? null, needsInputs }]
  })
}

function chosenVertices({ vertices, target }: Plan, mode: CacheMode): readonly Vertex[] {
  if (mode === 'max') return vertices
  const byId = new Map<VertexId, Vertex>(vertices.map((vertex) => [vertex.id, vertex]))
  const chain: Vertex[] = []
  for (let id = target.vertex; id !== null; ) {
    const vertex = byId.get(id)
    if (vertex === undefined) break
    chain.unshift(vertex)
    id = vertex.kind === 'image' ? null : vertex.parent
  }
  return chain
}

interface IdentifiedLayer extends SavedLayer {
  readonly contentId: string | null
}

/** The layers that the steps are about, as far as they could be hashed. */
async function identified(
  { environment }: SolvedPlan,
  steps: readonly ChosenStep[],
): Promise<ReadonlyMap<LayerId, IdentifiedLayer>> {
  const { ports, states, lease } = environment
  const { layers } = ports
  const needed = steps.flatMap(({ origin, layer, needsInputs }) => [
    ...origin.parent,
    ...(layer === null ? [] : [layer]),
    ...(needsInputs ? origin.inputs.flat() : []),
  ])
  await states.of([...new Set(needed)])
  const all = [...new Set([...needed, ...steps.flatMap(({ origin }) => origin.inputs.flat())])]
  const records = await layers.hold(all, lease)
  const contents = await layers.contentIds(records.map(({ id }) => id))
  const found = new Map<LayerId, IdentifiedLayer>()
  for (const [i, record] of records.entries()) {
    const { id, diffId, tarSize, keepsHeaders } = record
    if (diffId === null || tarSize === null) continue
    const content = contents[i] ?? null
    const contentId = content === diffId ? null : content
    found.set(id, { id, directory: layers.directory(id), keepsHeaders, diffId, size: tarSize, contentId })
  }
  return found
}

interface Draft {
  /** The layer goes along. */
  export(layer: IdentifiedLayer): void
  /** Place of a stack; undefined when it holds an unknown layer. */
  stack(layers: readonly (IdentifiedLayer | undefined)[]): number | null | undefined
  layer(layer: IdentifiedLayer): number
  add(step: CacheStep): void
  content(): CacheContent
}

function addStep(
  draft: Draft,
  { facts, origin, layer, needsInputs }: ChosenStep,
  layers: ReadonlyMap<LayerId, IdentifiedLayer>,
): void {
  const place = (stack: readonly LayerId[]) => draft.stack(stack.map((id) => layers.get(id)))
  const own = layer === null ? null : layers.get(layer)
  const parent = place(origin.parent)
  if (own === undefined || parent === undefined) return
  const inputs = origin.inputs.map(place)
  const isKnown = (input: number | null | undefined): input is number | null => input !== undefined
  const known = inputs.every(isKnown) ? inputs : undefined
  if (known === undefined && needsInputs) return
  draft.add({
    shape: facts.shape,
    parent,
    inputs: known,
    contentKey: facts.contentKey,
    layer: own === null ? null : draft.layer(own),
  })
}

/** Equal layers, stacks and steps are written once. */
function createDraft(): Draft {
  const saved: SavedLayer[] = []
  const blobs = new Map<DiffId, number>()
  const layers = createList<IdentifiedLayer>(({ diffId }) => diffId)
  const stacks = createList<CacheStack>(({ below, layer }) => `${below} ${layer}`)
  const steps = createList<CacheStep>((step) => JSON.stringify(step))
  return {
    export(layer) {
      if (blobs.has(layer.diffId)) return
      blobs.set(layer.diffId, saved.length)
      saved.push(layer)
    },
    layer: (layer) => layers.place(layer),
    stack(stack) {
      let below: number | null = null
      for (const layer of stack) {
        if (layer === undefined) return undefined
        below = stacks.place({ below, layer: layers.place(layer) })
      }
      return below
    },
    add: (step) => void steps.place(step),
    content: () => ({
      layers: saved,
      document: {
        layers: layers.items.map(
          ({ diffId, contentId }): CacheLayer => ({ diffId, contentId, blob: blobs.get(diffId) ?? null }),
        ),
        stacks: stacks.items,
        steps: steps.items.slice(0, cacheLimits.steps),
      },
    }),
  }
}

function createList<T>(keyOf: (item: T) => string) {
  const items: T[] = []
  const places = new Map<string, number>()
  return {
    items,
    place(item: T): number {
      const key = keyOf(item)
      const known = places.get(key)
      if (known !== undefined) return known
      places.set(key, items.length)
      return items.push(item) - 1
    },
  }
}
