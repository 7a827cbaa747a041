import { closeSync, existsSync, mkdirSync, openSync, writeFileSync } from 'node:fs'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { describe, expect, test } from 'vitest'
import { useLayerWorker } from '../../../../test/support/layer-worker-bench.js'
import type { ApplyParams, CopyParams, LayerWorkers } from '../ports/layer-worker.js'
import { pipe2 } from '../system/processes.js'
import { packetPair } from '../system/sockets.js'
import { createLayerPool } from './layer-pool.js'

const asRoot = userInfo().uid === 0

const bench = useLayerWorker()
const { events, log } = bench

function pool(size = 2): LayerWorkers & AsyncDisposable {
  return createLayerPool({ entry: bench.entry, size, log })
}

function layer(name: string): string {
  const upper = join(bench.directory, name)
  mkdirSync(upper, { recursive: true })
  return upper
}

/** An `apply` that has made its headers file and waits for the rest of a pipe. */
function waiting(name: string): { readonly params: ApplyParams; readonly close: () => void } {
  const { read, write } = pipe2()
  writeFileSync(write, Buffer.alloc(100, 'x'))
  return {
    params: {
      ...{
        fd: read,
        range: undefined,
        upper: layer(name),
        lowers: [],
        limit: 1 << 20,
        expectedDiffId: undefined,
      },
      headersFile: join(bench.directory, `${name}.headers`),
    },
    close: () => {
      closeSync(read)
      closeSync(write)
    },
  }
}

const delay = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

describe.skipIf(!asRoot)('the layer pool', () => {
  test('runs jobs side by side and gives their results', async () => {
    await using workers = pool()
    const uppers = Array.from({ length: 8 }, (_, index) => layer(`seal-${index}`))
    uppers.forEach((upper, index) => {
      writeFileSync(join(upper, 'f'), `${index % 2}`)
    })
    const results = await Promise.all(uppers.map((upper) => workers.run('seal', { upper, fixedTime: 5 })))
    expect(new Set(results.map(({ diffId }) => diffId)).size).toBe(2)
    expect(results.map(({ entries }) => entries)).toEqual(Array(8).fill(1))
    expect(await workers.run('resolveUser', { lowers: [], user: '3:4' })).toMatchObject({ uid: 3, gid: 4 })
  })

  test('an error arrives with its code, message and hint; a failed system call with errno', async () => {
    await using workers = pool(1)
    writeFileSync(join(layer('bad'), '.wh.x'), '')
    await expect(workers.run('seal', { upper: layer('bad'), fixedTime: undefined })).rejects.toMatchObject({
      name: 'BuilderError',
      code: 'ISB_UNSUPPORTED',
      hint: expect.stringMatching(/rename/),
    })
    const missing = { upper: join(bench.directory, 'missing'), fixedTime: undefined }
    await expect(workers.run('seal', missing)).rejects.toMatchObject({ code: 'ENOENT' })
    expect(await workers.run('seal', { upper: layer('good'), fixedTime: undefined })).toMatchObject({
      entries: 0,
    })
  })

  test('an abort takes a waiting job out and ends a running one', async () => {
    await using workers = pool(1)
    const slow = waiting('slow')
    const first = new AbortController()
    const second = new AbortController()
    try {
      const running = workers.run('apply', slow.params, first.signal)
      const queued = workers.run('seal', { upper: layer('queued'), fixedTime: 9 }, second.signal)
      const third = workers.run('seal', { upper: layer('third'), fixedTime: 9 })
      second.abort()
      await expect(queued).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
      while (!existsSync(slow.params.headersFile)) await delay(10)
      first.abort()
      await expect(running).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
      expect(await third).toMatchObject({ entries: 0 })
      await expect(
        workers.run('seal', { upper: bench.directory, fixedTime: 1 }, first.signal),
      ).rejects.toMatchObject({
        code: 'ISB_CANCELLED',
      })
    } finally {
      slow.close()
    }
  })

  test('jobs that wait for the files of one user hold up neither others nor those of another user', async () => {
    await using workers = pool(1)
    const stop = new AbortController()
    const sockets: number[] = []
    const reading = (uid: number, name: string): Promise<unknown> => {
      const [fd, silent] = packetPair()
      sockets.push(fd, silent)
      const root = { access: 'helper', fd, helperOf: uid } as const
      const source = { pattern: '*', unpack: false, ignore: [], ignoreFile: undefined, isContext: true }
      const params = {
        ...{ upper: layer(name), lowers: [], instruction: 'COPY', destination: '/', intoDirectory: true },
        inputs: [{ kind: 'tree', root, ...source }],
        ...{ chown: undefined, chmod: undefined, link: false, parents: false, excludes: [] },
        fixedTime: undefined,
      } as const satisfies CopyParams
      return workers.run('copy', params, stop.signal)
    }
    const hanging = ['a', 'b', 'c'].map((name) => reading(1, `hang-${name}`))
    const other = reading(2, 'hang-other')
    for (const one of [...hanging, other]) one.catch(() => undefined)
    const began = performance.now()
    expect(await workers.run('seal', { upper: layer('beside'), fixedTime: 1 })).toMatchObject({ entries: 0 })
    expect(performance.now() - began).toBeLessThan(5000)
    stop.abort()
    for (const one of [...hanging, other]) await expect(one).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
    for (const fd of sockets) closeSync(fd)
  })

  test('a thread that dies fails its job only and is replaced', async () => {
    const crashing = join(bench.directory, 'crashing.cjs')
    writeFileSync(
      crashing,
      `const { parentPort } = require('node:worker_threads')
       parentPort.on('message', ({ id, params }) => {
         if (params.user === 'die') process.exit(3)
         if (params.user === 'throw') throw new Error('out of nowhere')
         parentPort.postMessage({ id, ok: true, result: params.user })
       })`,
    )
    await using workers = createLayerPool({ entry: pathToFileURL(crashing), size: 1, log })
    const run = (user: string): Promise<unknown> => workers.run('resolveUser', { lowers: [], user })
    const results = await Promise.allSettled([run('a'), run('die'), run('b'), run('throw'), run('c')])
    expect(
      results.map((result) => (result.status === 'fulfilled' ? result.value : String(result.reason))),
    ).toEqual([
      'a',
      'Error: a layer thread died during "resolveUser"',
      'b',
      'Error: a layer thread died during "resolveUser"',
      'c',
    ])
    expect(events.filter((event) => event === 'layer.thread.died')).toHaveLength(2)
  })

  test('a job that needs more memory than a thread may have is refused, and the next one works', async () => {
    const greedy = join(bench.directory, 'greedy.cjs')
    writeFileSync(
      greedy,
      `const { parentPort } = require('node:worker_threads')
       parentPort.on('message', ({ id, params }) => {
         let held
         while (params.user === 'all') held = { held }
         parentPort.postMessage({ id, ok: true, result: params.user })
       })`,
    )
    await using workers = createLayerPool({ entry: pathToFileURL(greedy), size: 1, log, heap: 24 })
    await expect(workers.run('resolveUser', { lowers: [], user: 'all' })).rejects.toMatchObject({
      code: 'ISB_LIMIT_EXCEEDED',
      message: '"resolveUser" of a layer needs more than 24 MiB of memory',
    })
    expect(await workers.run('resolveUser', { lowers: [], user: 'little' })).toBe('little')
  })

  test('disposal ends what runs and refuses what comes', async () => {
    const workers = pool(1)
    const slow = waiting('disposed')
    try {
      const running = workers.run('apply', slow.params)
      const queued = workers.run('seal', { upper: layer('never'), fixedTime: 1 })
      const outcomes = Promise.allSettled([running, queued])
      while (!existsSync(slow.params.headersFile)) await delay(10)
      await workers[Symbol.asyncDispose]()
      expect(await outcomes).toMatchObject([
        { status: 'rejected', reason: { code: 'ISB_CANCELLED' } },
        { status: 'rejected', reason: { code: 'ISB_SHUTTING_DOWN' } },
      ])
      await expect(workers.run('seal', { upper: layer('never'), fixedTime: 1 })).rejects.toMatchObject({
        code: 'ISB_SHUTTING_DOWN',
      })
    } finally {
      slow.close()
    }
  })

  test('parameters that cannot be sent fail their own call', async () => {
    await using workers = pool(1)
    const params = { lowers: [], user: (() => '') as unknown as string }
    await expect(workers.run('resolveUser', params)).rejects.toThrowError(/cannot go to a thread/)
    const fd = openSync('/dev/null', 'w')
    try {
      const written = workers.run('writeLayer', {
        ...{ layerDirectory: bench.directory, keepsHeaders: true, fd, expectedDiffId: undefined },
      })
      await expect(written).rejects.toThrowError()
    } finally {
      closeSync(fd)
    }
  })
})
