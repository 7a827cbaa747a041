import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { beforeEach, expect, test } from 'vitest'
import { useLayerWorker } from '../../../../test/support/layer-worker-bench.js'
import { tarEnd, tarFile } from '../export/test-archives.js'
import { CLOSED } from '../layer/pipe/head.js'
import {
  attachSlots,
  BUSY,
  createSlotMemory,
  piecesPerSlot,
  publish,
  slotBytes,
  WRITTEN,
} from '../layer/pipe/slots.js'
import type { CopyParams } from '../ports/layer-worker.js'
import { createLayerPool } from './layer-pool.js'

const asRoot = userInfo().uid === 0

const bench = useLayerWorker()
const { events, log } = bench
beforeEach(() => void events.splice(0))

function writeArchive(path: string, files: number): void {
  const fd = openSync(path, 'w')
  try {
    for (let file = 0; file < files; file += 1000) {
      const part = Array.from({ length: 1000 }, (_, index) => tarFile(`file-${file + index}`, ''))
      writeSync(fd, Buffer.concat(part))
    }
    writeSync(fd, tarEnd)
  } finally {
    closeSync(fd)
  }
}

test.skipIf(!asRoot)(
  'a job that takes too much memory ends by itself, and leaves no descriptor open',
  async () => {
    const file = join(bench.directory, 'archive.tar')
    writeArchive(file, 100_000)
    const upper = join(bench.directory, 'upper')
    mkdirSync(upper)
    const params: CopyParams = {
      ...{ upper, lowers: [], instruction: 'ADD', destination: '/', intoDirectory: true },
      inputs: [{ kind: 'download', file, name: 'archive.tar', mtime: 0, unpack: true }],
      ...{ chown: undefined, chmod: undefined, link: false, parents: false, excludes: [] },
      fixedTime: undefined,
    }
    await using workers = createLayerPool({ entry: bench.entry, size: 1, log, heap: 48 })
    const empty = join(bench.directory, 'empty')
    mkdirSync(empty)
    await workers.run('seal', { upper: empty, fixedTime: 1 })
    const open = readdirSync('/proc/self/fd').length
    await expect(workers.run('copy', params)).rejects.toMatchObject({
      code: 'ISB_LIMIT_EXCEEDED',
      message: '"copy" of a layer needs more than 48 MiB of memory',
    })
    expect(await workers.run('seal', { upper: empty, fixedTime: 1 })).toMatchObject({ entries: 0 })
    expect(readdirSync('/proc/self/fd').length).toBe(open)
    expect(events).toEqual([])
    rmSync(file)
  },
)

/**
 * The worker as it is, but "resolveUser" asks for help with the memory it gets, waits for it, and then goes on as `user`
 * says.
 */
function helpedWorker(): URL {
  const path = join(bench.directory, 'helped.cjs')
  const code = `const { parentPort } = require('node:worker_threads')
    const on = parentPort.on.bind(parentPort)
    parentPort.on = (event, others) => on(event, (request) => {
      if (request.job !== 'resolveUser') return others(request)
      const { id, params: { user, memory, feed, come } } = request
      const words = new Int32Array(memory, 0, 16)
      if (feed !== undefined) words[3] = feed.job
      parentPort.postMessage({ id, ok: 'help', memory, feed })
      const until = performance.now() + 5000
      while (words[come] === 0 && performance.now() < until) Atomics.wait(words, 15, 0, 5)
      if (user === 'dying') process.exit(3)
      let held
      while (user === 'greedy') held = { held }
      Atomics.store(words, 1, 1)
      parentPort.postMessage({ id, ok: true, result: words[come] })
    })
    require('./layer-worker.cjs')`
  if (!existsSync(path)) writeFileSync(path, code)
  return pathToFileURL(path)
}

const feed = { job: 1, stored: { fd: -1 } }
const layouts = [
  // WAITING.
  { layout: 'slots', feed: undefined, come: 8, busy: BUSY },
  // STATE.
  { layout: 'a feed', feed, come: 5, busy: 4 },
]

test.each(layouts)(
  'who helps with $layout leaves a job that died of memory before it is over',
  async (layout) => {
    await using workers = createLayerPool({ entry: helpedWorker(), size: 1, log, heap: 32 })
    const run = async (user: string): Promise<{ result: unknown; words: Int32Array }> => {
      const memory = createSlotMemory()
      const words = new Int32Array(memory, 0, 16)
      const params = { lowers: [], user, memory, feed: layout.feed, come: layout.come }
      const result = await workers.run('resolveUser', params).catch((error: unknown) => error)
      return { result, words }
    }
    const greedy = await run('greedy')
    expect(greedy.result).toMatchObject({ code: 'ISB_LIMIT_EXCEEDED' })
    expect(greedy.words[CLOSED]).toBe(1)
    expect(greedy.words[layout.busy]).toBe(0)
    expect(events).toEqual(['layer.thread.died'])
    expect((await run('modest')).result).toBe(1)
    expect(events).toEqual(['layer.thread.died'])
  },
  20_000,
)

test('a job whose thread died is over when those who helped have put down what they had in hand', async () => {
  await using workers = createLayerPool({ entry: helpedWorker(), size: 1, log })
  const memory = createSlotMemory()
  const slots = attachSlots(memory)
  // Some hundred milliseconds of work.
  const { pieces } = slots.slot(0)
  for (let piece = 0; piece < piecesPerSlot; piece += 1) pieces[piece * 2 + 1] = slotBytes
  publish(slots, 0, { used: 0, operations: 0, pieces: piecesPerSlot, isBrought: false })
  const params = { lowers: [], user: 'dying', memory, come: WRITTEN }
  await expect(workers.run('resolveUser', params)).rejects.toThrow('a layer thread died during "resolveUser"')
  expect(Atomics.load(slots.words, WRITTEN)).toBe(1)
  expect(Atomics.load(slots.words, BUSY)).toBe(0)
})
