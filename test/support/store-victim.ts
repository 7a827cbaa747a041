import { writeSync } from 'node:fs'
import { argv } from 'node:process'
import type { LayerRecord } from '../../packages/builder-daemon/src/ports/layer-store.js'
import type { Store } from '../../packages/builder-daemon/src/storage/store.js'
import { isBuilderError } from '../../packages/shared/src/errors/builder-error.js'
import { cacheRecord } from './cache-record.js'
import { seededRandom } from './random-choices.js'
import { configBytes, diffIdOf, openAt, pruneStore, publishContent } from './temporary-store.js'

/**
 * Works on a store until it is killed: seeded operations, each announced before it begins and once it
 * is acknowledged, one line per event on standard output.
 */
export type VictimLine =
  | { readonly at: 'ready' }
  | { readonly at: 'begin' | 'done'; readonly op: VictimOp }
  | { readonly at: 'failed'; readonly op: VictimOp; readonly code: string }
  | { readonly at: 'end' }

export type VictimOp =
  | { readonly kind: 'put'; readonly id?: string; readonly label: string; readonly names: readonly string[] }
  | { readonly kind: 'tag'; readonly id: string; readonly name: string }
  | { readonly kind: 'untag'; readonly name: string }
  | { readonly kind: 'remove'; readonly id: string }
  | { readonly kind: 'prune' | 'backup' | 'stage' | 'cache' | 'close' }

function say(line: VictimLine): void {
  writeSync(1, `${JSON.stringify(line)}\n`)
}

async function put(store: Store, label: string, names: readonly string[]): Promise<string> {
  const lease = await store.layers.acquireLease({ uid: 0, purpose: 'victim' })
  const layers: LayerRecord[] = []
  for (const content of ['base', `top ${label}`]) {
    const found = await store.layers.findByDiffId(diffIdOf(content), '', lease, 'names')
    layers.push(found ?? (await publishContent(store, lease, content, { keepsHeaders: content === 'base' })))
  }
  const ids = layers.map((layer) => layer.id)
  const bytes = configBytes(layers, label)
  const image = await store.images.put({ configBytes: bytes, layers: ids, names, owner: 0 }, lease)
  await store.layers.releaseLease(lease)
  return image.id
}

async function perform(store: Store, op: VictimOp): Promise<VictimOp> {
  switch (op.kind) {
    case 'put':
      return { ...op, id: await put(store, op.label, op.names) }
    case 'tag':
      await store.images.tag(op.id, op.name)
      return op
    case 'untag':
      await store.images.untag(op.name)
      return op
    case 'remove':
      await store.images.remove(op.id)
      return op
    case 'prune':
      await pruneStore(store)
      return op
    case 'backup':
      await store.backup()
      return op
    case 'stage': {
      const lease = await store.layers.acquireLease({ uid: 0, purpose: 'left behind' })
      await store.layers.stage(lease)
      await store.layers.abandon(await store.layers.stage(lease))
      return op
    }
    case 'cache': {
      const lease = await store.layers.acquireLease({ uid: 0, purpose: 'victim' })
      const layer = await publishContent(store, lease, 'cached', { diffId: null, tarSize: null })
      await store.cache.store(0, cacheRecord('k', layer.id))
      await store.layers.setDiffId(layer.id, diffIdOf('cached'), 6)
      await store.layers.releaseLease(lease)
      return op
    }
    case 'close':
      await store.close()
      return op
  }
}

const [
  ,
  ,
  dataRoot = '',
  runRoot = '',
  worker = '',
  seed = '0',
  kinds = '',
  count = '1000',
  durability = 'verified',
  delay = '',
] = argv
const random = seededRandom(Number(seed))
const names = ['n:1', 'n:2', 'n:3']
const roots = { dataRoot, runRoot, remove: () => Promise.resolve() }
const wanted = kinds.split(',') as VictimOp['kind'][]

function choose(ids: readonly string[], serial: string): VictimOp {
  const kind = random.pick(wanted)
  const name = random.pick(names)
  switch (kind) {
    case 'put':
      return { kind, label: `${random.next(4) === 0 ? 'again' : serial}`, names: [name] }
    case 'tag':
    case 'remove':
      if (ids.length === 0) return { kind: 'put', label: serial, names: [name] }
      return kind === 'tag' ? { kind, id: random.pick(ids), name } : { kind, id: random.pick(ids) }
    case 'untag':
      return { kind, name }
    default:
      return { kind }
  }
}

let store = await openAt(roots, new URL(worker), {
  durability: durability === 'strict' ? 'strict' : 'verified',
  flushDelayMs: delay === '' ? random.next(20) : Number(delay),
})
say({ at: 'ready' })
for (let number = 0; number < Number(count); number++) {
  const ids = (await store.images.list()).map(({ id }) => id)
  const op = choose(ids, `${seed}-${number}`)
  say({ at: 'begin', op })
  try {
    say({ at: 'done', op: await perform(store, op) })
  } catch (error) {
    const code = isBuilderError(error) ? error.code : String(error)
    say({ at: 'failed', op, code })
  }
  if (op.kind === 'close')
    store = await openAt(roots, new URL(worker), {
      durability: durability === 'strict' ? 'strict' : 'verified',
      flushDelayMs: delay === '' ? random.next(20) : Number(delay),
    })
}
await store.close()
say({ at: 'end' })
