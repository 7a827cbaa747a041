import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import { gunzipSync, gzipSync } from 'node:zlib'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { type DiffId, digestOf } from '@isula-build/shared/oci/digest.js'
import { describe, expect, test } from 'vitest'
import type { CompressLayerParams } from '../ports/layer-worker.js'
import { compressLayerJob, writeFileJob } from './compress-layer.js'
import { sealJob } from './seal.js'
import { openWorkshop, rawTar, seededRandom, type Workshop } from './test-layers.js'

const asRoot = userInfo().uid === 0

function unzstd(bytes: Buffer): Buffer {
  return execFileSync('zstd', ['-dc'], { input: bytes, maxBuffer: 2 ** 30 })
}

function makeTree(upper: string, seed: number): void {
  const random = seededRandom(seed)
  for (let i = 0; i < 60; i++) {
    const directory = join(upper, `d${random(6)}`)
    mkdirSync(directory, { recursive: true })
    const noise = Buffer.alloc(random(5) === 0 ? random(700_000) : random(5000))
    for (let at = 0; at < noise.length; at++) noise[at] = random(2) === 0 ? random(256) : 32
    writeFileSync(join(directory, `f${i}`), noise)
  }
  symlinkSync('d0', join(upper, 'link'))
}

function paramsOf(
  shop: Workshop,
  name: string,
  rest: Partial<CompressLayerParams> = {},
): CompressLayerParams {
  return {
    layerDirectory: join(shop.root, name),
    keepsHeaders: false,
    expectedDiffId: undefined,
    compression: 'gzip',
    level: undefined,
    file: join(shop.root, `${name}.blob`),
    ...rest,
  }
}

function codeOf(work: () => unknown): string {
  try {
    work()
  } catch (error) {
    if (error instanceof BuilderError) return error.code
    throw error
  }
  return ''
}

describe.skipIf(!asRoot)('a layer becomes a blob', () => {
  test.each([
    ['gzip', undefined, gunzipSync],
    ['gzip', 1, gunzipSync],
    ['gzip', 9, gunzipSync],
    ['zstd', undefined, unzstd],
    ['zstd', 1, unzstd],
  ] as const)(
    '%s level %s: unpacked it is the tar, and its digest and size are those of the file',
    (compression, level, unpack) => {
      using shop = openWorkshop()
      for (const seed of [1, 2]) {
        const name = `l${seed}`
        const upper = shop.layer(name)
        makeTree(upper, seed)
        const { contentId: _, ...sealed } = sealJob({ upper, fixedTime: undefined })
        const params = paramsOf(shop, name, { compression, level, expectedDiffId: sealed.diffId })
        const made = compressLayerJob(params)
        const bytes = readFileSync(params.file)
        expect(made).toEqual({
          ...sealed,
          isBehind: false,
          digest: digestOf(bytes),
          size: bytes.length,
          recipe: expect.stringMatching(`^${compression}:${level ?? '[0-9]'}:`),
        })
        const tar = unpack(bytes)
        expect(digestOf(tar)).toBe(sealed.diffId)
        expect(tar.length).toBe(sealed.tarSize)
        expect(compressLayerJob(params)).toEqual(made)
      }
    },
  )

  test('a layer from elsewhere is its own tar, odd bytes and all', () => {
    using shop = openWorkshop()
    const archive = rawTar(
      { name: 'a', content: 'first' },
      { name: 'a', content: 'second' },
      { name: 'b/c', content: 'x'.repeat(100_000) },
    )
    const applied = shop.apply('kept', gzipSync(archive))
    const params = paramsOf(shop, 'kept', { keepsHeaders: true, expectedDiffId: applied.diffId })
    expect(compressLayerJob(params).diffId).toBe(digestOf(archive))
    expect(gunzipSync(readFileSync(params.file)).equals(archive)).toBe(true)
  })

  test('an empty layer is the empty tar', () => {
    using shop = openWorkshop()
    shop.layer('empty')
    const params = paramsOf(shop, 'empty')
    expect(compressLayerJob(params)).toMatchObject({ tarSize: 1024, entries: 0 })
    expect(gunzipSync(readFileSync(params.file)).equals(Buffer.alloc(1024))).toBe(true)
  })

  test('a longer file that was there is replaced whole', () => {
    using shop = openWorkshop()
    shop.layer('l')
    const params = paramsOf(shop, 'l')
    writeFileSync(params.file, Buffer.alloc(100_000, 'x'))
    expect(statSync(params.file).size).toBe(100_000)
    expect(compressLayerJob(params).size).toBe(statSync(params.file).size)
  })

  test('content that is not what it was is damage', () => {
    using shop = openWorkshop()
    writeFileSync(join(shop.layer('l'), 'f'), 'changed')
    const expectedDiffId = digestOf('before') as DiffId
    expect(codeOf(() => compressLayerJob(paramsOf(shop, 'l', { expectedDiffId })))).toBe('ISB_IMAGE_DAMAGED')
  })

  test('levels and compressions that do not exist are refused before anything is written', () => {
    using shop = openWorkshop()
    shop.layer('l')
    for (const bad of [{ level: 0 }, { level: 10 }, { level: Number.NaN }, { compression: 'xz' as 'gzip' }]) {
      const params = paramsOf(shop, 'l', bad)
      expect(codeOf(() => compressLayerJob(params))).toBe('ISB_ARGUMENT_INVALID')
      expect(existsSync(params.file)).toBe(false)
    }
  })

  test('an abort is noticed between blocks', () => {
    using shop = openWorkshop()
    writeFileSync(join(shop.layer('l'), 'f'), Buffer.alloc(20 << 20))
    let checks = 0
    const control = {
      check() {
        checks += 1
        if (checks > 10) throw new BuilderError('ISB_CANCELLED', 'cancelled')
      },
    }
    const params = paramsOf(shop, 'l')
    expect(codeOf(() => compressLayerJob(params, control))).toBe('ISB_CANCELLED')
  })

  test('a full disk says so', () => {
    using shop = openWorkshop()
    writeFileSync(join(shop.layer('l'), 'f'), Buffer.alloc(1 << 20, 'x'))
    expect(codeOf(() => compressLayerJob(paramsOf(shop, 'l', { file: '/dev/full' })))).toBe('ISB_NO_SPACE')
  })
})

test('small content is written to a file', () => {
  using shop = openWorkshop()
  const file = join(shop.root, 'config')
  const content = Uint8Array.from(Buffer.from('{"a":1}'))
  expect(writeFileJob({ file, content })).toEqual({ digest: digestOf(content), size: 7 })
  expect(writeFileJob({ file, content: Buffer.from('{}') })).toEqual({ digest: digestOf('{}'), size: 2 })
  expect(readFileSync(file, 'utf8')).toBe('{}')
})
