import { execFileSync } from 'node:child_process'
import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { join } from 'node:path'
import { getuid } from 'node:process'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { pullImage } from '../../packages/builder-daemon/src/core/transfer/pull.js'
import { openWorkshop, type RawEntry, rawTar } from '../../packages/builder-daemon/src/layer/test-layers.js'
import type { ApplyResult } from '../../packages/builder-daemon/src/ports/layer-worker.js'
import { BuilderError } from '../../packages/shared/src/errors/builder-error.js'
import { type Random, seededRandom } from '../support/random-choices.js'
import { openTransferBench, type TransferBench } from '../support/transfer-bench.js'

const options = { platforms: [], names: 'none' } as const

let bench: TransferBench
beforeAll(async () => {
  bench = await openTransferBench()
})
afterAll(() => bench[Symbol.asyncDispose]())

/** Everything that an overlay shows of a changeset, but the time of a root that no entry describes. */
function changeset(root: string): readonly string[] {
  const lines: string[] = []
  const inodes = new Map<bigint, string>()
  const visit = (path: string): void => {
    const full = join(root, path)
    const stat = lstatSync(full, { bigint: true })
    const first = inodes.get(stat.ino) ?? path
    inodes.set(stat.ino, first)
    const time = path === '.' ? '' : stat.mtimeNs
    const content = stat.isFile()
      ? readFileSync(full, 'latin1')
      : stat.isSymbolicLink()
        ? readlinkSync(full)
        : ''
    lines.push([path, stat.mode.toString(8), stat.uid, stat.gid, stat.rdev, time, first, content].join(' '))
    if (stat.isDirectory()) for (const name of readdirSync(full).sort()) visit(join(path, name))
  }
  visit('.')
  const attributes = execFileSync('getfattr', ['-R', '-h', '-d', '-m', '-', '.'], {
    cwd: root,
    encoding: 'utf8',
  })
  return [...lines, ...attributes.split('\n\n').sort()]
}

const parts = ['a', 'b', 'c', 'd']
const files = ['1', '2', '3', 'a']

/** `known` are files of the layers so far, for hard links. */
function randomLayer(random: Random, serial: string, known: string[]): readonly RawEntry[] {
  const directory = (): string =>
    Array.from({ length: 1 + random.next(2) }, () => random.pick(parts)).join('/')
  const path = (): string => `${random.next(5) === 0 ? '' : `${directory()}/`}${random.pick(files)}`
  const entries = Array.from({ length: 1 + random.next(5) }, (_, i): RawEntry => {
    const mtime = 1_000_000_000 + random.next(1000)
    switch (random.next(14)) {
      case 0:
        return { name: `${directory()}/.wh.${random.pick([...files, ...parts])}`, mtime }
      case 1:
        return { name: `${directory()}/.wh..wh..opq`, mtime }
      case 2:
        return { name: '.wh..wh..opq', mtime }
      case 3:
      case 4:
        if (known.length === 0) return { name: path(), content: serial, mtime }
        return { name: path(), type: '1', link: random.next(6) === 0 ? path() : random.pick(known), mtime }
      case 5:
        return { name: path(), type: '2', link: random.pick(['a', '../b', '/c']), mtime }
      case 6:
      case 7:
      case 8:
        return { name: directory(), type: '5', mode: 0o700 + random.next(0o100), uid: random.next(3), mtime }
      case 9:
        return { name: `./`, type: '5', mode: 0o711, mtime }
      default:
        return { name: path(), content: `${serial} ${i}`, mode: 0o600 + random.next(0o100), mtime }
    }
  })
  known.push(...entries.flatMap(({ name = '', content }) => (content === undefined ? [] : [name])))
  // Builders describe the directories above as well; then no layer depends on those below it.
  if (random.next(3) > 0) return entries
  const above = new Set(
    entries.flatMap(({ name = '' }) => name.split('/').map((_, i, all) => all.slice(0, i).join('/'))),
  )
  const directories = [...above].filter((one) => one !== '' && one !== '.')
  return [...directories.map((name): RawEntry => ({ name, type: '5', mode: 0o755 })), ...entries]
}

interface Sequential {
  readonly applied: readonly ApplyResult[]
  readonly listings: readonly (readonly string[])[]
  /** Of the layer that cannot be unpacked. */
  readonly code: string | undefined
}

/** The layers one after the other, each over those below it. */
function applyInOrder(tars: readonly Buffer[]): Sequential {
  using shop = openWorkshop()
  const applied: ApplyResult[] = []
  const listings: (readonly string[])[] = []
  for (const [i, tar] of tars.entries()) {
    const lowers = Array.from({ length: i }, (_, below) => join(shop.root, `${i - 1 - below}/diff`))
    try {
      applied.push(shop.apply(`${i}`, tar, { lowers }))
    } catch (error) {
      if (!(error instanceof BuilderError)) throw error
      return { applied, listings, code: error.code }
    }
    listings.push(changeset(join(shop.root, `${i}/diff`)))
  }
  return { applied, listings, code: undefined }
}

describe.skipIf(getuid?.() !== 0)('layers that are unpacked side by side (needs root)', () => {
  test('are what they would be one after the other', async () => {
    const seconds = Math.min(Number(process.env['ISULA_FUZZ_SECONDS'] ?? '5'), 60)
    const end = Date.now() + seconds * 1000
    const seen = { stored: 0, dependent: 0, refused: 0 }
    for (let seed = 1; seed <= 60 || Date.now() < end; seed++) {
      const random = seededRandom(seed)
      const known: string[] = []
      const tars = Array.from({ length: 2 + random.next(4) }, (_, i) =>
        rawTar(...randomLayer(random, `${seed} ${i}`, known)),
      )
      const expected = applyInOrder(tars)
      bench.registry.add(`r.test/p:${seed}`, { layers: tars.map((tar) => ({ tar })), label: `${seed}` })
      const pulling = pullImage(`r.test/p:${seed}`, options, bench.services, bench.call())
      const [result] = await Promise.allSettled([pulling])
      if (expected.code !== undefined) {
        seen.refused += 1
        expect(result, `seed ${seed}`).toMatchObject({ status: 'rejected', reason: { code: expected.code } })
        continue
      }
      if (result?.status !== 'fulfilled') throw new Error(`seed ${seed}`, { cause: result?.reason })
      const layers = result.value.images[0]?.record.layers ?? []
      for (const [i, layer] of layers.entries()) {
        const found = changeset(join(bench.store.layers.directory(layer.id), 'diff'))
        expect(found, `seed ${seed}, layer ${i}`).toEqual(expected.listings[i])
        expect(layer.parentKey !== null, `seed ${seed}, layer ${i}`).toBe(expected.applied[i]?.usedParents)
        expect([layer.diffId, layer.tarSize]).toEqual([
          expected.applied[i]?.diffId,
          expected.applied[i]?.tarSize,
        ])
        if (layer.parentKey !== null) seen.dependent += 1
        seen.stored += 1
      }
    }
    expect(seen.stored).toBeGreaterThan(60)
    expect(seen.dependent).toBeGreaterThan(10)
    expect(seen.refused).toBeGreaterThan(3)
    await bench.store.settle()
    expect(await bench.store.check()).toEqual([])
  }, 120_000)

  test('are unpacked twice only when those below matter', async () => {
    const plain = rawTar({ name: 'd', type: '5' }, { name: 'd/f', content: 'once' })
    const below = rawTar({ name: 'e', type: '5', mode: 0o700 }, { name: 'e/f', content: 'below' })
    const above = rawTar({ name: 'e/g', content: 'over' })
    bench.registry.add('r.test/twice:1', { layers: [below, plain, above].map((tar) => ({ tar })) })
    bench.jobs.length = 0
    const { images } = await pullImage('r.test/twice:1', options, bench.services, bench.call())
    expect(bench.jobs.filter((job) => job === 'applyFile')).toHaveLength(4)
    const records = images[0]?.record.layers ?? []
    expect(records.map(({ parentKey }) => parentKey === null)).toEqual([true, true, false])
    const top = records[2]
    if (top === undefined) throw new Error('three layers')
    const implied = lstatSync(join(bench.store.layers.directory(top.id), 'diff/e'))
    expect(implied.mode & 0o777).toBe(0o700)
  })

  test('a layer that matters to another one is the same in whatever order pulls meet', async () => {
    const one = rawTar({ name: 'x', type: '5', mode: 0o711 }, { name: 'y/1', content: '1' })
    const two = rawTar({ name: 'y', type: '5', mode: 0o722 }, { name: 'x/2', content: '2' })
    bench.registry.add('r.test/there:1', { layers: [one, two].map((tar) => ({ tar })) })
    bench.registry.add('r.test/back:1', { layers: [two, one].map((tar) => ({ tar })) })
    const [there, back] = await Promise.all(
      ['there', 'back'].map((name) => pullImage(`r.test/${name}:1`, options, bench.services, bench.call())),
    )
    for (const result of [there, back]) {
      const records = result?.images[0]?.record.layers ?? []
      expect(records.map(({ parentKey }) => parentKey === null)).toEqual([false, false])
    }
    // Each over the other one takes the mode of what it does not describe.
    const modes = [there, back].map((result) => {
      const top = result?.images[0]?.record.layers[1]
      if (top === undefined) throw new Error('two layers')
      const root = join(bench.store.layers.directory(top.id), 'diff')
      return readdirSync(root).map(
        (name) => `${name} ${(lstatSync(join(root, name)).mode & 0o777).toString(8)}`,
      )
    })
    expect(modes.map((lines) => lines.sort())).toEqual([
      ['x 711', 'y 722'],
      ['x 711', 'y 722'],
    ])
  })
})
