import { createHash } from 'node:crypto'
import { closeSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { getuid } from 'node:process'
import { Worker } from 'node:worker_threads'
import { gzipSync } from 'node:zlib'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { type Digest, digestOf } from '@isula-build/shared/oci/digest.js'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { applyJob } from '../../packages/builder-daemon/src/layer/apply.js'
import type { JobControl } from '../../packages/builder-daemon/src/layer/job-control.js'
import { feed } from '../../packages/builder-daemon/src/layer/pipe/feed.js'
import type { FeedParams } from '../../packages/builder-daemon/src/layer/stored-tar.js'
import { rawTar } from '../../packages/builder-daemon/src/layer/test-layers.js'
import { writeLayerJob } from '../../packages/builder-daemon/src/layer/write-layer.js'
import type { ApplyParams, ApplyResult } from '../../packages/builder-daemon/src/ports/layer-worker.js'
import { bundleEntry } from '../support/bundled-worker.js'

/** Words of the shared memory. */
const LOST = 0
const BUSY = 4
const STATE = 5
const FILLED = 8

let helper: Worker
let root = ''

beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'isula-build-feed-'))
  const entry = await bundleEntry('packages/builder-daemon/src/workers/layer-worker.ts')
  helper = new Worker(entry, { workerData: { cancelled: new SharedArrayBuffer(4) } })
})
afterAll(async () => {
  await helper.terminate()
  rmSync(root, { recursive: true, force: true })
})

/** Content that compresses badly, so that it is big enough as stored too. */
function noise(bytes: number, seed: number): Buffer {
  const parts: Buffer[] = []
  for (let at = 0; at < bytes; at += 32) parts.push(createHash('sha256').update(`${seed} ${at}`).digest())
  return Buffer.concat(parts)
}

const tar = rawTar(
  { name: 'd', type: '5', mode: 0o755 },
  ...Array.from({ length: 40 }, (_, i) => ({ name: `d/f${i}`, content: noise(160_000 + i * 1000, i) })),
  { name: 'last', content: 'last' },
)

interface Run {
  readonly result: ApplyResult | undefined
  /** Slots that the other thread filled. */
  readonly filled: number
}

/** Applies `stored`; `help` decides what the other thread does. */
function apply(
  name: string,
  stored: Buffer,
  options: Partial<ApplyParams> = {},
  help: (memory: SharedArrayBuffer, params: FeedParams) => void = comes,
  check: () => void = () => undefined,
): Run {
  const file = join(root, `${name}.stored`)
  writeFileSync(file, stored)
  const upper = join(root, name, 'diff')
  mkdirSync(upper, { recursive: true })
  const fd = openSync(file, 'r')
  let words: Int32Array = new Int32Array(16)
  const control: JobControl = {
    check,
    help(memory, params) {
      words = new Int32Array(memory, 0, 16)
      if (params !== undefined) help(memory, params)
    },
  }
  try {
    const result = applyJob(
      {
        ...{ fd, range: { offset: 0, length: stored.length }, upper, lowers: [], limit: 2 ** 32 },
        ...{ expectedDiffId: undefined, headersFile: join(root, name, 'headers.gz') },
        ...options,
      },
      control,
    )
    return { result, filled: words[FILLED] ?? 0 }
  } finally {
    closeSync(fd)
    expect(Atomics.load(words, BUSY)).toBe(0)
  }
}

/** The other thread is there before the job goes on. */
function comes(memory: SharedArrayBuffer, params: FeedParams): void {
  helper.postMessage({ id: 1, job: 'help', params: { memory, feed: params } })
  const words = new Int32Array(memory, 0, 16)
  for (let waits = 0; Atomics.load(words, STATE) === 0; waits += 1) {
    if (waits > 2000) throw new Error('the other thread did not come')
    Atomics.wait(words, STATE, 0, 10)
  }
}

function written(name: string): Buffer {
  const file = join(root, `${name}.tar`)
  const fd = openSync(file, 'w')
  try {
    const layerDirectory = join(root, name)
    writeLayerJob({ layerDirectory, keepsHeaders: true, fd, expectedDiffId: undefined })
  } finally {
    closeSync(fd)
  }
  return readFileSync(file)
}

function failure(work: () => unknown): BuilderError {
  try {
    work()
  } catch (error) {
    if (error instanceof BuilderError) return error
    throw error
  }
  throw new Error('it did not fail')
}

describe.skipIf(getuid?.() !== 0)(
  'a layer that is unpacked with the help of another thread (needs root)',
  () => {
    test.each([
      ['plain', tar],
      ['gzip', gzipSync(tar, { level: 1 })],
      [
        'gzip of two members',
        Buffer.concat([gzipSync(tar.subarray(0, 99_999)), gzipSync(tar.subarray(99_999))]),
      ],
    ] as const)('%s is what it is without', (name, stored) => {
      const alone = apply(`${name} alone`, stored, {}, () => undefined)
      const both = apply(name, stored, { expectedDigest: digestOf(stored), expectedDiffId: undefined })
      expect(alone.filled).toBe(0)
      expect(both.filled).toBeGreaterThan(10)
      expect(both.result).toEqual(alone.result)
      expect(both.result?.diffId).toBe(digestOf(tar))
      expect(written(name).equals(tar)).toBe(true)
    })

    test('the other thread may come late, and goes on where the job is', () => {
      let asked: (() => void) | undefined
      let checks = 0
      const { result, filled } = apply(
        'late',
        tar,
        {},
        (memory, params) => {
          asked = () => comes(memory, params)
        },
        () => {
          checks += 1
          if (checks === 30) asked?.()
        },
      )
      expect(filled).toBeGreaterThan(0)
      expect(result?.diffId).toBe(digestOf(tar))
      expect(written('late').equals(tar)).toBe(true)
    })

    test('a thread that comes when the job is over touches nothing', () => {
      const asked: (() => void)[] = []
      apply('over', tar, {}, (memory, params) => {
        // The descriptor is closed by then: reading it would fail, or read another file.
        asked.push(() => feed(memory, params, { check: () => undefined }))
        comes(memory, params)
      })
      for (const one of asked) one()
      expect(asked).toHaveLength(1)
    })

    test('wrong bytes are a wrong digest, whatever they seem to hold', () => {
      const wrong = digestOf(Buffer.from('other'))
      for (const [name, stored] of [
        ['wrong', tar],
        ['wrong tar', Buffer.concat([tar.subarray(0, 5_000_000 - 8), Buffer.alloc(8_000_000, 'x')])],
        ['wrong gzip', Buffer.concat([gzipSync(tar).subarray(0, 6_000_000), Buffer.alloc(100_000)])],
      ] as const) {
        expect(failure(() => apply(name, stored, { expectedDigest: wrong }))).toMatchObject({
          code: 'ISB_DIGEST_MISMATCH',
          message: expect.stringContaining(wrong),
        })
      }
    })

    test('damage is told as without help', () => {
      const damaged = Buffer.concat([gzipSync(tar).subarray(0, 6_000_000), Buffer.alloc(100_000)])
      const alone = failure(() => apply('damaged alone', damaged, {}, () => undefined))
      const both = failure(() => apply('damaged', damaged, { expectedDigest: digestOf(damaged) }))
      expect(both).toMatchObject({ code: 'ISB_ARCHIVE_INVALID', message: alone.message })
      const diffId = digestOf(Buffer.from('other')) as Digest & ApplyParams['expectedDiffId']
      expect(failure(() => apply('other', tar, { expectedDiffId: diffId })).code).toBe('ISB_DIGEST_MISMATCH')
      expect(failure(() => apply('long', gzipSync(tar), { limit: 5_000_000 })).code).toBe(
        'ISB_LIMIT_EXCEEDED',
      )
    })

    test('a job that is cancelled lets the other thread go', () => {
      let checks = 0
      const cancelled = failure(() =>
        apply('cancelled', tar, {}, comes, () => {
          checks += 1
          if (checks > 20) throw new BuilderError('ISB_CANCELLED', 'cancelled')
        }),
      )
      expect(cancelled.code).toBe('ISB_CANCELLED')
      expect(apply('after', tar).result?.diffId).toBe(digestOf(tar))
    })

    test('a job whose other thread died fails instead of waiting', () => {
      const died = (): unknown =>
        apply('died', tar, {}, (memory) => {
          const words = new Int32Array(memory, 0, 16)
          Atomics.store(words, STATE, 1)
          setLost(words)
        })
      expect(died).toThrow('a thread that helped with a layer died')
    })
  },
)

/** As the pool does when a thread ends with a part of the work. */
function setLost(words: Int32Array): void {
  Atomics.add(words, LOST, 1)
}
