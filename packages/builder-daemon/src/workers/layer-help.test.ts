import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chownSync,
  closeSync,
  ftruncateSync,
  linkSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { describe, expect, test } from 'vitest'
import { useLayerWorker } from '../../../../test/support/layer-worker-bench.js'
import { copyJob } from '../layer/copy/copy.js'
import { sealJob } from '../layer/seal.js'
import type { CopyParams } from '../ports/layer-worker.js'
import { lsetxattr } from '../system/extended-attributes.js'
import { createLayerPool } from './layer-pool.js'

const asRoot = userInfo().uid === 0
const mebibyte = 1 << 20

const bench = useLayerWorker()
const { events, log } = bench

function paramsOf(context: number, upper: string): CopyParams {
  mkdirSync(upper, { recursive: true, mode: 0o755 })
  const root = { access: 'direct', fd: context } as const
  const source = { pattern: '.', unpack: false, ignore: [], ignoreFile: undefined, isContext: false }
  return {
    ...{ upper, lowers: [], instruction: 'COPY', destination: 'app', intoDirectory: true },
    inputs: [{ kind: 'tree', root, ...source }],
    ...{ chown: undefined, chmod: undefined, link: false, parents: false, excludes: [] },
    fixedTime: undefined,
  }
}

/** Small files by the thousand, some with what needs an answer, and files written past the page cache. */
function fillContext(context: string): void {
  for (let index = 0; index < 16; index += 1) {
    const place = join(context, `directory-${index}`)
    mkdirSync(place, { recursive: true, mode: index % 7 === 0 ? 0o2775 : 0o755 })
    for (let file = 0; file < 60; file += 1) {
      writeFileSync(join(place, `file-${file}`), `${index} ${file} `.repeat(3 * file * index), {
        mode: file % 9 === 0 ? 0o4711 : 0o640,
      })
    }
    if (index % 5 === 0) {
      chownSync(join(place, 'file-1'), 1234, 5678)
      linkSync(join(place, 'file-2'), join(place, 'link'))
      symlinkSync('file-3', join(place, 'symbolic'))
      lsetxattr(join(place, 'file-4'), 'user.made', Buffer.from('here'))
      lsetxattr(join(place, 'file-5'), 'security.capability', capability)
    }
  }
  for (const [name, size] of [['big', 20 * mebibyte + 5] as const, ['round', 12 * mebibyte] as const]) {
    writeFileSync(join(context, name), Buffer.alloc(size, `${name} `))
  }
}

const capability = Buffer.from('0100000200040000000000000000000000000000', 'hex')

async function withContext(name: string, use: (fd: number, path: string) => Promise<void>): Promise<void> {
  const path = join(bench.directory, name)
  mkdirSync(path)
  const fd = openSync(path, 'r')
  try {
    await use(fd, path)
  } finally {
    closeSync(fd)
    rmSync(path, { recursive: true })
  }
}

describe.skipIf(!asRoot)('copies that several threads work on', () => {
  test('come out as if made by one, however many run at once', async () => {
    await withContext('many', async (fd, context) => {
      fillContext(context)
      const expected = copyJob(paramsOf(fd, join(bench.directory, 'alone')))
      await using workers = createLayerPool({ entry: bench.entry, size: 2, log })
      const uppers = Array.from({ length: 3 }, (_, index) => join(bench.directory, `together-${index}`))
      const results = await Promise.all(uppers.map((upper) => workers.run('copy', paramsOf(fd, upper))))
      const digest = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex')
      for (const [index, upper] of uppers.entries()) {
        expect(results[index]).toEqual(expected)
        const { diffId, contentId } = sealJob({ upper, fixedTime: undefined, identify: true })
        expect([diffId, contentId]).toEqual([expected.diffId, expected.contentId])
        expect(digest(join(upper, 'app/big'))).toBe(digest(join(context, 'big')))
        expect(statSync(join(upper, 'app/directory-7/file-9')).mode & 0o7777).toBe(0o4711)
        rmSync(upper, { recursive: true })
      }
      rmSync(join(bench.directory, 'alone'), { recursive: true })
      expect(events).not.toContain('layer.help.failed')
    })
  }, 120_000)

  test('leave their files alone as soon as they are cancelled', async () => {
    await withContext('endless', async (fd, context) => {
      const huge = openSync(join(context, 'huge'), 'w')
      ftruncateSync(huge, 2 ** 35)
      closeSync(huge)
      await using workers = createLayerPool({ entry: bench.entry, size: 1, log })
      const upper = join(bench.directory, 'cancelled')
      const stop = new AbortController()
      const running = workers.run('copy', paramsOf(fd, upper), stop.signal)
      running.catch(() => undefined)
      const target = join(upper, 'app/huge')
      const size = (): number => statSync(target, { throwIfNoEntry: false })?.size ?? 0
      while (size() < 12 * mebibyte) await new Promise((resolve) => setTimeout(resolve, 5))
      stop.abort()
      await expect(running).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
      const before = size()
      await new Promise((resolve) => setTimeout(resolve, 100))
      expect(size()).toBe(before)
      rmSync(upper, { recursive: true })
    })
  })

  test('say so when the disk is full, whoever met it', async () => {
    await withContext('full', async (fd, context) => {
      writeFileSync(join(context, 'big'), Buffer.alloc(30 * mebibyte))
      const mount = join(bench.directory, 'small')
      mkdirSync(mount)
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=16m', 'tmpfs', mount])
      try {
        await using workers = createLayerPool({ entry: bench.entry, size: 1, log })
        for (const name of ['first', 'second']) {
          const params = paramsOf(fd, join(mount, name))
          await expect(workers.run('copy', params)).rejects.toMatchObject({ code: 'ISB_NO_SPACE' })
          rmSync(join(mount, name), { recursive: true })
        }
      } finally {
        execFileSync('umount', [mount])
      }
    })
  })
})

test('a job learns that a thread died that helped it', async () => {
  const dying = join(bench.directory, 'dying.cjs')
  writeFileSync(
    dying,
    `const { parentPort } = require('node:worker_threads')
     parentPort.on('message', ({ id, job }) => {
       if (job === 'help') process.exit(3)
       const memory = new SharedArrayBuffer(8)
       parentPort.postMessage({ id, ok: 'help', memory })
       const words = new Int32Array(memory)
       while (Atomics.load(words, 0) === 0) Atomics.wait(words, 1, 0, 10)
       parentPort.postMessage({ id, ok: true, result: words[0] })
     })`,
  )
  await using workers = createLayerPool({ entry: pathToFileURL(dying), size: 1, log })
  expect(await workers.run('resolveUser', { lowers: [], user: 'x' })).toBe(1)
})
