import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { digestHex, digestOf } from '@isula-build/shared/oci/digest.js'
import { expect, test } from 'vitest'
import { findMember, indexArchive, readMember } from './archive-index.js'
import { defaultLimits } from './archive-limits.js'
import { loadArchive } from './load.js'
import type { LoadedImage } from './load-images.js'
import { type SaveImage, saveArchive } from './save.js'
import { type Bench, createBench, dockerArchive, json, layerTar, tarEntry, tarFile } from './test-archives.js'

const rootTest = test.skipIf(process.getuid?.() !== 0)

/** Not what the canonical writer makes: another order, a dot, trailing blocks. */
const foreign = Buffer.concat([
  tarEntry('./z', 'directory'),
  tarFile('./z/b', 'b'.repeat(3000)),
  tarFile('./a', 'a'),
  Buffer.alloc(10_240),
])
const plain = layerTar(tarFile('one', 'first'))
const packed = layerTar(tarFile('two', 'second'))

async function load(bench: Bench, archive: Uint8Array): Promise<LoadedImage> {
  const [image] = await bench.withFile(archive, (input) => loadArchive(input, bench.services, bench.options))
  if (image === undefined) throw new Error('nothing was loaded')
  return image
}

async function save(bench: Bench, format: 'docker' | 'oci', images: readonly SaveImage[]): Promise<Buffer> {
  const path = join(bench.root, 'output')
  await using handle = await open(path, 'w')
  await saveArchive({ images, format, fd: handle.fd }, bench.services, bench.options)
  return readFileSync(path)
}

async function members(bench: Bench, archive: Buffer): Promise<ReadonlyMap<string, Buffer>> {
  return bench.withFile(archive, async ({ fd, path }) => {
    const file = { fd, path, size: archive.length }
    const index = await indexArchive(file, defaultLimits, bench.options.signal)
    const contents = new Map<string, Buffer>()
    for (const name of index.entries.keys()) {
      const member = findMember(index, name)
      if (member !== undefined) contents.set(name, await readMember(member, archive.length))
    }
    return contents
  })
}

rootTest.each(['docker', 'oci'] as const)('a saved %s archive loads as the same image', async (format) => {
  await using bench = await createBench()
  await using other = await createBench()
  const first = await load(bench, dockerArchive({ layers: [foreign, plain, foreign] }))
  const archive = await save(bench, format, [{ record: first.record, names: ['a:1', 'host:5000/b:2'] }])
  const images = await other.withFile(archive, (input) => loadArchive(input, other.services, other.options))
  expect(new Set(images.map((image) => image.id))).toEqual(new Set([first.id]))
  const [record] = await other.store.images.list()
  expect(record?.names).toEqual(['a:1', 'host:5000/b:2'])
  const again = await save(other, format, [
    { record: images.at(-1)?.record ?? first.record, names: ['a:1', 'host:5000/b:2'] },
  ])
  expect(again.equals(archive)).toBe(true)
})

rootTest('layers come out byte for byte as they came in', async () => {
  await using bench = await createBench()
  const { record } = await load(bench, gzipSync(dockerArchive({ layers: [foreign, plain] })))
  const docker = await members(bench, await save(bench, 'docker', [{ record, names: [] }]))
  expect(docker.get(`${digestHex(digestOf(foreign))}/layer.tar`)?.equals(foreign)).toBe(true)
  const oci = await members(bench, await save(bench, 'oci', [{ record, names: [] }]))
  expect(oci.get(`blobs/sha256/${digestHex(digestOf(plain))}`)?.equals(plain)).toBe(true)
})

rootTest('a layer of several images and an image of several names are written once', async () => {
  await using bench = await createBench()
  const a = await load(bench, dockerArchive({ layers: [plain] }))
  const b = await load(bench, dockerArchive({ layers: [plain, packed] }))
  const archive = await save(bench, 'docker', [
    { record: a.record, names: ['a:1'] },
    { record: b.record, names: [] },
    { record: a.record, names: ['a:2', 'a:1'] },
  ])
  const contents = await members(bench, archive)
  const [one, two] = [plain, packed].map((layer) => `${digestHex(digestOf(layer))}/layer.tar`)
  expect([...contents.keys()].sort()).toEqual(
    [`${a.id}.json`, `${b.id}.json`, one, two, 'manifest.json', 'repositories'].sort(),
  )
  expect(JSON.parse(contents.get('manifest.json')?.toString() ?? '')).toEqual([
    { Config: `${a.id}.json`, RepoTags: ['a:1', 'a:2'], Layers: [one] },
    { Config: `${b.id}.json`, RepoTags: [], Layers: [one, two] },
  ])
  expect(JSON.parse(contents.get('repositories')?.toString() ?? '')).toEqual({
    a: { 1: digestHex(digestOf(plain)), 2: digestHex(digestOf(plain)) },
  })
})

rootTest('an archive can be written to a pipe, the same as to a file', async () => {
  await using bench = await createBench()
  const many = layerTar(
    ...Array.from({ length: 100 }, (_, i) => tarFile(`d${i % 3}/f${i}`, `${i}`.repeat(i * 90))),
  )
  const { record } = await load(bench, dockerArchive({ layers: [foreign, plain, many, packed] }))
  const images = [{ record, names: ['a:1'] }]
  const path = join(bench.root, 'from-pipe')
  const fifo = join(bench.root, 'fifo')
  expect(spawnSync('mkfifo', [fifo]).status).toBe(0)
  const cat = spawn('/bin/sh', ['-c', 'cat "$0" > "$1"', fifo, path], { stdio: 'ignore' })
  const ended = once(cat, 'exit')
  {
    await using writer = await open(fifo, 'w')
    await saveArchive({ images, format: 'docker', fd: writer.fd }, bench.services, bench.options)
  }
  await ended
  expect(readFileSync(path).equals(await save(bench, 'docker', images))).toBe(true)
})

rootTest('a file that holds something already is written at its own offset', async () => {
  await using bench = await createBench()
  const { record } = await load(bench, dockerArchive({ layers: [foreign, plain] }))
  const images = [{ record, names: [] }]
  const path = join(bench.root, 'begun')
  await using handle = await open(path, 'w')
  await handle.write('begun')
  await saveArchive({ images, format: 'docker', fd: handle.fd }, bench.services, bench.options)
  const archive = await save(bench, 'docker', images)
  expect(readFileSync(path).equals(Buffer.concat([Buffer.from('begun'), archive]))).toBe(true)
})

rootTest('a layer that was never hashed is hashed first', async () => {
  await using bench = await createBench()
  const { layers, images } = bench.store
  const staging = await layers.stage(bench.options.lease)
  writeFileSync(join(staging.upper, 'file'), 'content')
  const unsealed = { diffId: null, tarSize: null, keepsHeaders: false, parentKey: null }
  const layer = await layers.publish(staging, unsealed, bench.options.lease)
  const sealed = await bench.services.workers.run('seal', {
    upper: `${layers.directory(layer.id)}/diff`,
    fixedTime: undefined,
  })
  const config = { architecture: 'amd64', os: 'linux', rootfs: { type: 'layers', diff_ids: [sealed.diffId] } }
  const image = { configBytes: json(config), layers: [layer.id], names: [], owner: 0 }
  const record = await images.put(image, bench.options.lease)
  const contents = await members(bench, await save(bench, 'oci', [{ record, names: [] }]))
  const blob = contents.get(`blobs/sha256/${digestHex(sealed.diffId)}`)
  expect(blob === undefined ? '' : digestOf(blob)).toBe(sealed.diffId)
  expect(bench.store.records.get(layer.id)).toMatchObject({ diffId: sealed.diffId, tarSize: sealed.tarSize })
})

rootTest('a layer whose files were changed fails as damaged', async () => {
  await using bench = await createBench()
  const { record } = await load(bench, dockerArchive({ layers: [plain] }))
  const [layer] = record.layers
  if (layer === undefined) throw new Error('no layer')
  writeFileSync(`${bench.store.layers.directory(layer.id)}/diff/one`, 'FIRST')
  await expect(save(bench, 'docker', [{ record, names: [] }])).rejects.toMatchObject({
    code: 'ISB_IMAGE_DAMAGED',
  })
  expect([...bench.store.damaged]).toEqual([layer.id])
})

rootTest('a full disk is said so', async () => {
  await using bench = await createBench()
  const { record } = await load(bench, dockerArchive({ layers: [plain] }))
  await using full = await open('/dev/full', 'w')
  const saving = saveArchive(
    { images: [{ record, names: [] }], format: 'oci', fd: full.fd },
    bench.services,
    bench.options,
  )
  await expect(saving).rejects.toMatchObject({ code: 'ISB_NO_SPACE' })
})
