import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { digestHex, digestOf } from '@isula-build/shared/oci/digest.js'
import { expect, test } from 'vitest'
import { loadArchive } from './load.js'
import {
  configOf,
  createBench,
  dockerArchive,
  expectRefused,
  json,
  layerTar,
  loadInto,
  tarEnd,
  tarEntry,
  tarFile,
} from './test-archives.js'

const isRoot = process.getuid?.() === 0
const rootTest = test.skipIf(!isRoot)

const one = layerTar(tarFile('one', 'first'))
const two = layerTar(tarFile('two', 'second'))

rootTest('a docker archive becomes an image with its names and files', async () => {
  await using bench = await createBench()
  const config = configOf([one, two])
  const archive = dockerArchive({
    layers: [one, two],
    config,
    names: ['docker.io/library/box:1', 'host:5000/a/b:2'],
  })
  const [image] = await loadInto(bench, archive)
  expect(image).toMatchObject({ id: digestHex(digestOf(config)), names: ['box:1', 'host:5000/a/b:2'] })
  const [bottom] = image?.record.layers ?? []
  if (bottom === undefined) throw new Error('no layer')
  expect(bottom).toMatchObject({
    diffId: digestOf(one),
    tarSize: one.length,
    keepsHeaders: true,
    parentKey: null,
  })
  expect(readFileSync(`${bench.store.layers.directory(bottom.id)}/diff/one`, 'utf8')).toBe('first')
})

rootTest('what the store has is not unpacked again', async () => {
  await using bench = await createBench()
  await loadInto(bench, dockerArchive({ layers: [one, two], names: ['a:1'] }))
  await loadInto(bench, dockerArchive({ layers: [one, two], names: ['a:2'] }))
  expect(bench.ran.filter((job) => job === 'apply')).toHaveLength(2)
  expect((await bench.store.images.list())[0]?.names).toEqual(['a:1', 'a:2'])
})

rootTest('the same layer twice in one image is unpacked once', async () => {
  await using bench = await createBench()
  const [image] = await loadInto(bench, dockerArchive({ layers: [one, two, one] }))
  expect(bench.ran.filter((job) => job === 'apply')).toHaveLength(2)
  expect(image?.record.layers.map((layer) => layer.diffId)).toEqual(
    [one, two, one].map((layer) => digestOf(layer)),
  )
})

rootTest('a layer may stand on one that is there twice', async () => {
  await using bench = await createBench()
  const link = layerTar(tarEntry('linked', 'hardlink', 'one'))
  const [image] = await loadInto(bench, dockerArchive({ layers: [one, two, one, link] }))
  const top = image?.record.layers[3]
  if (top === undefined) throw new Error('no layer')
  expect(readFileSync(`${bench.store.layers.directory(top.id)}/diff/linked`, 'utf8')).toBe('first')
})

rootTest('a layer that took something from its parents is shared only over the same ones', async () => {
  await using bench = await createBench()
  const link = layerTar(tarEntry('linked', 'hardlink', 'shared'))
  const below = (content: string): Buffer => layerTar(tarFile('shared', content))
  const [a] = await loadInto(bench, dockerArchive({ layers: [below('a'), link] }))
  const [b] = await loadInto(bench, dockerArchive({ layers: [below('b'), link] }))
  const files = [a, b].map((image) => {
    const top = image?.record.layers[1]
    if (top === undefined) throw new Error('no layer')
    expect(top.parentKey).not.toBeNull()
    return readFileSync(`${bench.store.layers.directory(top.id)}/diff/linked`, 'utf8')
  })
  expect(files).toEqual(['a', 'b'])
})

rootTest('several images in one archive share layers', async () => {
  await using bench = await createBench()
  const configs = [configOf([one]), configOf([one, two])]
  const manifest = configs.map((_config, i) => ({
    Config: `${i}.json`,
    RepoTags: [`a:${i}`],
    Layers: ['1.tar', '2.tar'].slice(0, i + 1),
  }))
  const archive = Buffer.concat([
    ...configs.map((config, i) => tarFile(`${i}.json`, config)),
    tarFile('1.tar', one),
    tarFile('2.tar', gzipSync(two)),
    tarFile('manifest.json', json(manifest)),
    tarEnd,
  ])
  const images = await loadInto(bench, archive)
  expect(images.map((image) => image.names)).toEqual([['a:0'], ['a:1']])
  expect(bench.ran.filter((job) => job === 'apply')).toHaveLength(2)
})

rootTest.each([
  ['gzip', (bytes: Buffer) => gzipSync(bytes)],
  [
    'gzip in two members',
    (b: Buffer) => Buffer.concat([gzipSync(b.subarray(0, 700)), gzipSync(b.subarray(700))]),
  ],
  ['xz', (bytes: Buffer) => filter('xz', bytes)],
  ['bzip2', (bytes: Buffer) => filter('bzip2', bytes)],
  ['zstd', (bytes: Buffer) => filter('zstd', bytes)],
])('an archive packed with %s is loaded', async (_name, pack) => {
  await using bench = await createBench()
  const [image] = await loadInto(bench, pack(dockerArchive({ layers: [one], names: ['a:b'] })))
  expect(image?.names).toEqual(['a:b'])
  expect([...bench.store.staged]).toEqual([])
})

function filter(program: string, input: Buffer): Buffer {
  const { status, stdout } = spawnSync(program, ['-c'], { input })
  if (status !== 0) throw new Error(`${program} failed`)
  return stdout
}

rootTest('an archive from a stream is loaded', async () => {
  await using bench = await createBench()
  const archive = dockerArchive({ layers: [one], names: ['a:b'] })
  const chunks = async function* () {
    for (let at = 0; at < archive.length; at += 100) yield archive.subarray(at, at + 100)
  }
  const images = await loadArchive({ stream: chunks(), path: '-' }, bench.services, bench.options)
  expect(images[0]?.names).toEqual(['a:b'])
})

rootTest('an archive from a pipe is loaded, and waiting for its writer can be given up', async () => {
  await using bench = await createBench()
  const fifo = join(bench.root, 'fifo')
  expect(spawnSync('mkfifo', [fifo]).status).toBe(0)
  await using handle = await open(fifo, 'r+')
  const archive = dockerArchive({ layers: [one], names: ['a:b'] })
  const input = { fd: handle.fd, path: fifo }
  const giveUp = new AbortController()
  const waiting = loadArchive(input, bench.services, { ...bench.options, signal: giveUp.signal })
  setTimeout(() => giveUp.abort(), 50)
  await expect(waiting).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
  expect([...bench.store.staged]).toEqual([])
  const cat = spawn('/bin/sh', ['-c', 'cat > "$0"', fifo], { stdio: ['pipe', 'ignore', 'ignore'] })
  const reader = await open(fifo, 'r')
  const loading = loadArchive({ fd: reader.fd, path: fifo }, bench.services, bench.options)
  cat.stdin.end(archive)
  await once(cat, 'exit')
  await handle.close()
  expect((await loading)[0]?.names).toEqual(['a:b'])
  await reader.close()
})

rootTest('names come from repositories when manifest.json has none', async () => {
  await using bench = await createBench()
  const id = 'c'.repeat(64)
  const archive = Buffer.concat([
    tarFile('config.json', configOf([one])),
    tarFile(`${id}/layer.tar`, one),
    tarFile('manifest.json', json([{ Config: 'config.json', RepoTags: null, Layers: [`${id}/layer.tar`] }])),
    tarFile('repositories', json({ busybox: { old: id, other: 'd'.repeat(64) } })),
    tarEnd,
  ])
  const [image] = await loadInto(bench, archive)
  expect(image?.names).toEqual(['busybox:old'])
})

rootTest('a name that reads like the ID of another image is left out', async () => {
  await using bench = await createBench()
  const [first] = await loadInto(bench, dockerArchive({ layers: [one] }))
  const short = first?.id.slice(0, 12)
  const [second] = await loadInto(
    bench,
    dockerArchive({ layers: [two], names: [`${short}:latest`, `${first?.id}:x`, 'fee:1'] }),
  )
  expect(second?.names).toEqual(['fee:1'])
  expect(bench.log.filter((line) => line.startsWith('[Warning]'))).toHaveLength(2)
})

test('neither format is said with both reasons', async () => {
  const text = /^wrong image format detected from local tarball: try docker format: .*,try oci format: /
  await expectRefused(Buffer.concat([tarFile('a', 'b'), tarEnd]), 'ISB_ARCHIVE_INVALID', text)
  await expectRefused(Buffer.from('no archive at all'), 'ISB_ARCHIVE_INVALID', text)
  await expectRefused(Buffer.alloc(5000, 'x'), 'ISB_ARCHIVE_INVALID', text)
  await expectRefused(gzipSync(Buffer.from('no archive at all')), 'ISB_ARCHIVE_INVALID', text)
  await expectRefused(
    gzipSync(dockerArchive({ layers: [one] })).subarray(0, 200),
    'ISB_ARCHIVE_INVALID',
    text,
  )
  await expectRefused(Buffer.alloc(0), 'ISB_ARCHIVE_INVALID', /empty/)
})

test('an archive above the limit is refused before it is read', async () => {
  await using bench = await createBench()
  const services = { ...bench.services, limits: { ...bench.services.limits, archive: 2048 } }
  const loading = bench.withFile(dockerArchive({ layers: [one] }), (input) =>
    loadArchive(input, services, bench.options),
  )
  await expect(loading).rejects.toMatchObject({
    code: 'ISB_LIMIT_EXCEEDED',
    message: expect.stringMatching(/exceeds limit 2048/),
  })
  const bomb = gzipSync(Buffer.alloc(1_000_000))
  const unpacking = bench.withFile(bomb, (input) => loadArchive(input, services, bench.options))
  await expect(unpacking).rejects.toMatchObject({ code: 'ISB_LIMIT_EXCEEDED' })
  expect([...bench.store.staged]).toEqual([])
})

test('documents above their limits are refused', async () => {
  const manifest = Buffer.alloc(1024 * 1024 + 1, ' ')
  await expectRefused(Buffer.concat([tarFile('manifest.json', manifest), tarEnd]), 'ISB_LIMIT_EXCEEDED')
  const config = Buffer.alloc(4 * 1024 * 1024 + 1, ' ')
  await expectRefused(dockerArchive({ layers: [], config }), 'ISB_LIMIT_EXCEEDED')
})

test.each([
  ['../../etc/passwd', 'layer-0.tar'],
  ['/etc/passwd', 'layer-0.tar'],
  ['config.json', '/etc/passwd'],
  ['config.json', '../../../etc/passwd'],
  ['config.json', 'link.tar'],
  ['config.json', 'absent.tar'],
])('config %s with layer %s never leaves the archive', async (Config, layer) => {
  const archive = Buffer.concat([
    tarFile('config.json', configOf([one])),
    tarFile('layer-0.tar', one),
    tarEntry('link.tar', 'symlink', '/etc/passwd'),
    tarFile('manifest.json', json([{ Config, RepoTags: null, Layers: [layer] }])),
    tarEnd,
  ])
  await expectRefused(archive, 'ISB_ARCHIVE_INVALID')
})

test('a configuration that is not what its name says is refused', async () => {
  for (const Config of [`${'a'.repeat(64)}.json`, `blobs/sha256/${'a'.repeat(64)}`]) {
    const manifest = json([{ Config, RepoTags: null, Layers: [] }])
    const archive = Buffer.concat([tarFile(Config, configOf([])), tarFile('manifest.json', manifest), tarEnd])
    await expectRefused(archive, 'ISB_DIGEST_MISMATCH')
  }
})

rootTest('a layer that is not what the configuration says is refused', async () => {
  await expectRefused(dockerArchive({ layers: [one], config: configOf([two]) }), 'ISB_DIGEST_MISMATCH')
  await expectRefused(
    dockerArchive({ layers: [one], config: configOf([one, two]) }),
    'ISB_ARCHIVE_INVALID',
    /layers/,
  )
})

rootTest('when the last of several images is wrong, none is stored', async () => {
  const good = configOf([one])
  const bad = configOf([two])
  const manifest = [good, bad].map((_config, i) => ({
    Config: `${i}.json`,
    RepoTags: [`a:${i}`],
    Layers: ['l.tar'],
  }))
  const files = [tarFile('0.json', good), tarFile('1.json', bad), tarFile('l.tar', one)]
  await expectRefused(
    Buffer.concat([...files, tarFile('manifest.json', json(manifest)), tarEnd]),
    'ISB_DIGEST_MISMATCH',
  )
})

test('a cancelled load stores nothing', async () => {
  await using bench = await createBench()
  const options = { ...bench.options, signal: AbortSignal.abort() }
  const loading = bench.withFile(dockerArchive({ layers: [one] }), (input) =>
    loadArchive(input, bench.services, options),
  )
  await expect(loading).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
  expect(await bench.store.images.list()).toEqual([])
})

test('an archive that policy.json rejects stores nothing', async () => {
  await using bench = await createBench()
  const asked: string[] = []
  const services = {
    ...bench.services,
    admit: (transport: string, path: string) => {
      asked.push(`${transport}:${path}`)
      throw new BuilderError('ISB_POLICY_REJECTED', 'rejected')
    },
  }
  const loading = bench.withFile(dockerArchive({ layers: [one] }), (input) =>
    loadArchive({ ...input, path: '/a.tar' }, services, bench.options),
  )
  await expect(loading).rejects.toMatchObject({ code: 'ISB_POLICY_REJECTED' })
  expect(asked).toEqual(['docker-archive:/a.tar'])
  expect(await bench.store.images.list()).toEqual([])
})

test('a directory given as an archive is refused', async () => {
  await using bench = await createBench()
  await using handle = await open(bench.root)
  const loading = loadArchive({ fd: handle.fd, path: bench.root }, bench.services, bench.options)
  await expect(loading).rejects.toMatchObject({
    code: 'ISB_ARCHIVE_INVALID',
    message: expect.stringMatching(/regular file/),
  })
})
