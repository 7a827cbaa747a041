import { spawn } from 'node:child_process'
import { env, execPath, getuid } from 'node:process'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Store } from '../../packages/builder-daemon/src/storage/store.js'
import { bundleEntry, databaseWorkerEntry } from '../support/bundled-worker.js'
import { seededRandom } from '../support/random-choices.js'
import type { VictimLine, VictimOp } from '../support/store-victim.js'
import { makeRoots, openAt, type Roots } from '../support/temporary-store.js'

let worker: URL
let victim: URL
let roots: Roots

beforeAll(async () => {
  worker = await bundleEntry(databaseWorkerEntry)
  victim = await bundleEntry('test/support/store-victim.ts')
})
beforeEach(async () => {
  roots = await makeRoots()
})
afterEach(() => roots.remove())

/** What the acknowledged operations left: names of images, and images. */
interface Known {
  readonly names: Map<string, string>
  readonly images: Set<string>
}

function apply(known: Known, op: VictimOp): void {
  switch (op.kind) {
    case 'put':
      if (op.id === undefined) throw new Error('a put was acknowledged without an image')
      known.images.add(op.id)
      for (const name of op.names) known.names.set(name, op.id)
      return
    case 'tag':
      known.names.set(op.name, op.id)
      return
    case 'untag':
      known.names.delete(op.name)
      return
    case 'remove':
      known.images.delete(op.id)
      for (const [name, id] of known.names) if (id === op.id) known.names.delete(name)
      return
    default:
      return
  }
}

async function seen(store: Store): Promise<Known> {
  const listed = await store.images.list()
  return {
    images: new Set(listed.map(({ id }) => id)),
    names: new Map(listed.flatMap(({ id, names }) => names.map((name) => [name, id] as const))),
  }
}

const plain = ({ names, images }: Known) => ({
  names: Object.fromEntries([...names].sort()),
  images: [...images].sort(),
})

/** Runs the victim and kills it `delayMs` after it began its operation number `killAt`; gives its lines. */
function runVictim(options: {
  seed: number
  kinds: string
  killAt: number
  delayMs: number
}): Promise<VictimLine[]> {
  const lines: VictimLine[] = []
  const args = [
    fileURLToPath(victim),
    roots.dataRoot,
    roots.runRoot,
    worker.href,
    String(options.seed),
    options.kinds,
  ]
  const child = spawn(execPath, [...args, String(options.killAt + 20)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let rest = ''
  let begun = 0
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    const parts = (rest + text).split('\n')
    rest = parts.pop() ?? ''
    for (const part of parts) {
      const line = JSON.parse(part) as VictimLine
      lines.push(line)
      if (line.at === 'begin' && begun++ === options.killAt)
        setTimeout(() => child.kill('SIGKILL'), options.delayMs)
    }
  })
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (_code, signal) => {
      if (signal === 'SIGKILL' || lines.at(-1)?.at === 'end') resolve(lines)
      else reject(new Error(`the victim ended by itself: ${JSON.stringify(lines.at(-1))}`))
    })
  })
}

/** Every acknowledged operation is visible; the one under way entirely or not at all. */
async function expectAcknowledged(store: Store, before: Known, lines: readonly VictimLine[]): Promise<Known> {
  const known: Known = { names: new Map(before.names), images: new Set(before.images) }
  let open: VictimOp | undefined
  for (const line of lines) {
    if (line.at === 'begin') open = line.op
    if (line.at === 'done') apply(known, line.op)
    if (line.at === 'done' || line.at === 'failed') open = undefined
    if (line.at === 'failed') expect(['ISB_IMAGE_NOT_FOUND']).toContain(line.code)
  }
  const now = await seen(store)
  const without = plain(known)
  if (open === undefined) {
    expect(plain(now)).toEqual(without)
    return now
  }
  if (open.kind === 'put') {
    const fresh = [...now.images].find((id) => !known.images.has(id))
    const target = fresh ?? now.names.get(open.names[0] ?? '')
    if (target !== undefined) apply(known, { ...open, id: target })
  } else apply(known, open)
  expect([without, plain(known)]).toContainEqual(plain(now))
  return now
}

const allKinds = 'put,put,put,tag,untag,remove,prune,backup,stage,cache,close'
const rounds = Number(env['ISULA_CRASH_ROUNDS'] ?? 10)

async function crashRounds(kinds: string, seed: number, count: number): Promise<void> {
  const random = seededRandom(seed)
  let known: Known = { names: new Map(), images: new Set() }
  for (let round = 0; round < count; round++) {
    const killAt = random.next(8)
    const delayMs = random.next(12)
    const lines = await runVictim({ seed: seed + round, kinds, killAt, delayMs })
    const store = await openAt(roots, worker)
    try {
      expect(store.recovery.ms).toBeLessThan(2000)
      expect(store.recovery.databaseLost).toBe(false)
      known = await expectAcknowledged(store, known, lines)
      await store.settle()
      expect(await store.check()).toEqual([])
      for (const { id } of await store.images.list()) {
        const image = await store.images.get(id)
        const lease = await store.layers.acquireLease({ uid: 0, purpose: 'look' })
        const held = await store.layers.hold(image?.layers.map((layer) => layer.id) ?? [], lease)
        expect(held).toEqual(image?.layers)
        await store.layers.releaseLease(lease)
      }
    } catch (error) {
      throw new Error(`seed ${seed}, round ${round}, killed in ${JSON.stringify(lines.at(-1))}`, {
        cause: error,
      })
    } finally {
      await store.close()
    }
  }
}

describe.skipIf(getuid?.() !== 0)('the store killed at any moment (needs root)', () => {
  test.each(['put', 'put,tag', 'put,untag', 'put,remove', 'cache,prune', 'put,backup', 'stage', 'put,close'])(
    'keeps what was acknowledged while it does %s',
    (kinds) => crashRounds(kinds, 1000, rounds),
  )

  test('keeps what was acknowledged while it does everything', () => crashRounds(allKinds, 7, rounds))

  test('opens after being killed while it opens', async () => {
    await crashRounds('put', 50, 1)
    for (let round = 0; round < rounds; round++) {
      const child = spawn(
        execPath,
        [fileURLToPath(victim), roots.dataRoot, roots.runRoot, worker.href, '1', 'put', '0'],
        { stdio: 'ignore' },
      )
      const ended = new Promise((resolve) => child.once('close', resolve))
      await new Promise((resolve) => setTimeout(resolve, 60 + round * 8))
      child.kill('SIGKILL')
      await ended
    }
    const store = await openAt(roots, worker)
    try {
      expect(await store.images.list()).not.toEqual([])
      await store.settle()
      expect(await store.check()).toEqual([])
    } finally {
      await store.close()
    }
  })
})
