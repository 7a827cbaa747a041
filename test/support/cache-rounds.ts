import { randomBytes } from 'node:crypto'
import { chmodSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'vitest'
import { readInputs } from '../../packages/client/src/build/inputs.js'
import type { Connection } from '../../packages/client/src/connect.js'
import { isBuilderError } from '../../packages/shared/src/errors/builder-error.js'
import { decodeBuildEvent } from '../../packages/shared/src/rpc/build-event.js'
import { builderService } from '../../packages/shared/src/rpc/builder.js'
import { makeBusyboxTar } from './busybox-rootfs.js'
import { createDaemonBench, type DaemonBench } from './daemon-bench.js'
import { configOf, hardLinks, imageOf, layersOf, type Tree, treeOf, treeOfLayers } from './image-tree.js'
import { type Random, seededRandom } from './random-choices.js'
import { createRandomDockerfile } from './random-dockerfile.js'
import { createRandomTree } from './random-edits.js'

export interface RoundsResult {
  /** Rounds in which both ways gave an image. */
  compared: number
  /** Rounds in which both failed. */
  failed: number
  hits: number
  misses: number
}

/** Two daemons: one that uses its cache, one that never does. */
export interface CacheRounds extends AsyncDisposable {
  readonly cached: DaemonBench
  /** Edits and builds one project `count` times; fails with the history when the two ways differ. */
  play(seed: number, count: number): Promise<RoundsResult>
}

const bases = ['rounds-a:1', 'rounds-b:1', 'rounds-moving:1']

export async function createCacheRounds(): Promise<CacheRounds> {
  const cached = await createDaemonBench()
  try {
    const fresh = await createDaemonBench()
    try {
      for (const name of ['a', 'b']) {
        const directory = join(cached.work, name)
        mkdirSync(directory)
        const tar = makeBusyboxTar(directory, (root) => {
          writeFileSync(
            join(root, 'etc/passwd'),
            `root:x:0:0::/root:/bin/sh\napp:x:${name === 'a' ? 5 : 6}:7::/:/bin/sh\n`,
          )
          for (const place of ['app', 'opt', 'srv']) mkdirSync(join(root, place))
          chmodSync(join(root, 'tmp'), 0o1777)
          writeFileSync(join(root, 'app/main'), name)
        })
        for (const bench of [cached, fresh]) await bench.image('import', tar, `rounds-${name}:1`)
      }
      return await roundsOf(cached, fresh)
    } catch (error) {
      await fresh[Symbol.asyncDispose]()
      throw error
    }
  } catch (error) {
    await cached[Symbol.asyncDispose]()
    throw error
  }
}

interface Built {
  readonly image: string | undefined
  readonly error: unknown
  readonly hits: number
  /** Numbers of the steps and why. */
  readonly misses: readonly string[]
}

interface BuildRequest {
  readonly context: string
  readonly buildArgs: ReadonlyMap<string, string>
  readonly noCache: boolean
}

async function build(connection: Connection, request: BuildRequest): Promise<Built> {
  const { dockerfile, ignoreFile, context, dispose } = await readInputs(
    '',
    request.context,
    () => process.stdin,
  )
  const call = connection.duplex(builderService.Build)
  let hits = 0
  const misses: string[] = []
  let image: string | undefined
  try {
    await call.write({
      payload: {
        case: 'options',
        value: {
          buildId: randomBytes(6).toString('hex'),
          ...{ dockerfile, ignoreFile, context: context.source },
          ...{ buildArgs: request.buildArgs, noCache: request.noCache },
        },
      },
    })
    for await (const { payload } of call.responses) {
      if (payload?.case === 'result') {
        image = payload.value.imageId
        call.end()
      }
      const event = payload?.case === 'event' ? decodeBuildEvent(payload.value) : undefined
      if (event?.kind !== 'step-finished') continue
      if (event.cache?.status === 'hit') hits++
      if (event.cache?.status === 'miss') misses.push(`${event.step} ${JSON.stringify(event.cache.reason)}`)
    }
    return { image, error: undefined, hits, misses }
  } catch (error) {
    call.cancel()
    if (!isBuilderError(error) || error.code === 'ISB_INTERNAL') throw error
    return { image: undefined, error, hits, misses }
  } finally {
    await dispose()
  }
}

/** Every time that something had that was copied, by what it was: `now`, and at any time before. */
interface Times {
  learn(trees: readonly Tree[]): void
  /** A time of the context as it is. */
  isKnown(origin: string, time: bigint): boolean
  /** A time that the same had at some time: files that were only touched are no reason to copy them again. */
  wasKnown(origin: string, time: bigint): boolean
  /** Takes down what an image gave: a RUN that did no more than change a time may be gone from the next one. */
  allow(tree: Tree): void
  /** The same of a build that failed: what its steps made is cached, and nobody sees it. Milliseconds. */
  allowSince(start: number): void
}

/** Milliseconds by which the clock of file systems may be behind. */
const coarse = 20

function createTimes(): Times {
  const ever = new Set<string>()
  let now = new Set<string>()
  const failed: (readonly [start: number, end: number])[] = []
  const text = (origin: string, time: bigint): string => `${origin} ${time}`
  return {
    learn(trees) {
      now = new Set(
        trees.flatMap((tree) => [...tree.values()]).map(({ origin, mtimeNs }) => text(origin, mtimeNs)),
      )
      for (const one of now) ever.add(one)
    },
    allow(tree) {
      for (const { origin, mtimeNs } of tree.values()) ever.add(text(origin, mtimeNs))
    },
    allowSince(start) {
      failed.push([start - coarse, Date.now()])
    },
    isKnown: (origin, time) => now.has(text(origin, time)),
    wasKnown: (origin, time) =>
      ever.has(text(origin, time)) ||
      failed.some(([start, end]) => start <= Number(time / 1_000_000n) && Number(time / 1_000_000n) <= end),
  }
}

/** Lines that differ between two images that should be the same. */
export function differences(actual: Tree, wanted: Tree, times: Times): readonly string[] {
  const found: string[] = []
  const links = [hardLinks(actual), hardLinks(wanted)] as const
  for (const path of new Set([...actual.keys(), ...wanted.keys()])) {
    const [a, b] = [actual.get(path), wanted.get(path)]
    if (a?.facts !== b?.facts) found.push(`${path}: ${a?.facts ?? 'missing'}, not ${b?.facts ?? 'missing'}`)
    else if (links[0].get(path) !== links[1].get(path)) {
      found.push(`${path}: one file with ${links[0].get(path)}, not ${links[1].get(path)}`)
    }
    if (a === undefined || b === undefined || !times.isKnown(b.origin, b.mtimeNs)) continue
    if (!times.wasKnown(a.origin, a.mtimeNs)) found.push(`${path}: time ${a.mtimeNs}, not ${b.mtimeNs}`)
  }
  return found
}

/** The config, less what says when it was built, and of the layers how many. */
function comparedConfig(bench: DaemonBench, image: string): unknown {
  const { created: _, history: __, rootfs, ...config } = configOf(bench.data, image)
  return { ...config, layers: layersOf(bench.data, image).length, rootfs: Object.keys(rootfs ?? {}) }
}

const treeOfImage = (bench: DaemonBench, image: string): Tree => treeOfLayers(layersOf(bench.data, image))

async function roundsOf(cached: DaemonBench, fresh: DaemonBench): Promise<CacheRounds> {
  let connection = await cached.connect()
  const reference = await fresh.connect()
  const baseTrees = ['a', 'b'].map((name) => treeOfImage(cached, imageOf(cached.data, `rounds-${name}:1`)))

  const chances: readonly (readonly [number, string, (random: Random) => Promise<unknown>])[] = [
    [25, 'prune', () => cached.prune()],
    [60, 'restart', restart],
    [30, 'pause', () => sleep(2100)],
    [12, 'other base', (random) => move(random.pick(bases.slice(0, 2)))],
  ]
  async function restart(): Promise<void> {
    connection.close()
    await cached.kill('SIGTERM')
    await cached.restart()
    connection = await cached.connect()
  }
  async function move(image: string): Promise<void> {
    for (const one of [connection, reference]) {
      await one.unary(builderService.Tag, { image, name: 'rounds-moving:1' })
    }
  }

  /** What the daemons wrote down of an internal error. */
  function logged(message: string): string {
    const id = /internal error ([0-9a-f]+)/.exec(message)?.[1]
    if (id === undefined) return ''
    const lines = [cached, fresh].flatMap(({ daemon }) => readFileSync(daemon.log, 'utf8').split('\n'))
    return lines.filter((line) => line.includes(id)).join('\n')
  }

  async function play(seed: number, count: number): Promise<RoundsResult> {
    const random = seededRandom(seed)
    const context = join(cached.work, `project-${seed}`)
    mkdirSync(context)
    const dockerfile = createRandomDockerfile(random, bases, `p${seed}`)
    const files = createRandomTree(context, random)
    const times = createTimes()
    const result = { compared: 0, failed: 0, hits: 0, misses: 0 }
    const history: string[] = []
    let version = '0'
    await move('rounds-a:1')

    async function edit(): Promise<void> {
      for (const [oneIn, name, act] of chances) {
        if (random.next(oneIn) !== 0) continue
        history.push(name)
        await act(random)
      }
      for (let left = random.next(4); left > 0; left--) history.push(files.edit())
      for (let left = random.next(5) - 2; left > 0; left--) history.push(dockerfile.edit())
      if (random.next(6) === 0) version = String(random.next(3))
    }

    async function compare(buildArgs: ReadonlyMap<string, string>, isAlone: boolean): Promise<void> {
      const request = { context, buildArgs, noCache: false }
      const begun = Date.now()
      const made = await build(connection, request)
      const inSame = random.next(4) === 0
      const wanted = await build(inSame ? connection : reference, { ...request, noCache: true })
      result.hits += made.hits
      result.misses += made.misses.length
      if (made.image === undefined || wanted.image === undefined) {
        const [one, other] = [made, wanted].map(({ error }) =>
          error === undefined ? 'an image' : 'an error',
        )
        expect(one, String(made.error ?? wanted.error)).toBe(other)
        times.allowSince(begun)
        result.failed++
        dockerfile.restore()
        return
      }
      const bench = inSame ? cached : fresh
      const [actual, expected] = [treeOfImage(cached, made.image), treeOfImage(bench, wanted.image)]
      expect(differences(actual, expected, times)).toEqual([])
      expect(comparedConfig(cached, made.image)).toEqual(comparedConfig(bench, wanted.image))
      times.allow(actual)
      // What a build without cache makes is a result for those that come after it.
      if (inSame) times.allow(expected)
      result.compared++
      dockerfile.keep()
      // What is compared with the last build of the project may be told another reason by one beside it.
      if (!isAlone || random.next(4) > 0) return
      const again = await build(connection, request)
      expect(again.misses).toEqual([])
      if (!inSame) expect(layersOf(cached.data, again.image ?? '')).toEqual(layersOf(cached.data, made.image))
    }

    try {
      for (let number = 0; number < count; number++) {
        if (number > 0) await edit()
        history.push(`round ${number}`)
        writeFileSync(join(context, 'Dockerfile'), dockerfile.text())
        times.learn([treeOf(context), ...baseTrees])
        const versions = random.next(8) === 0 ? ['1', '2'] : [version]
        await Promise.all(
          versions.map((value) => compare(new Map([['VERSION', value]]), versions.length === 1)),
        )
      }
    } catch (error) {
      const text = `seed ${seed}\n${history.slice(-25).join('\n')}\n${dockerfile.text()}`
      const message = error instanceof Error ? error.message : String(error)
      throw new Error(`${text}\n${message}\n${logged(message)}`, { cause: error })
    }
    rmSync(context, { recursive: true })
    return result
  }

  return {
    cached,
    play,
    async [Symbol.asyncDispose]() {
      connection.close()
      reference.close()
      await fresh[Symbol.asyncDispose]()
      await cached[Symbol.asyncDispose]()
    },
  }
}
