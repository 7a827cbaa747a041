import { spawnSync } from 'node:child_process'
import { closeSync, openSync, utimesSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { digestHex, digestOf } from '@isula-build/shared/oci/digest.js'
import { expect, test } from 'vitest'
import { importRootfs } from './import.js'
import { saveArchive } from './save.js'
import { createBench, layerTar, tarEntry, tarFile } from './test-archives.js'

const rootTest = test.skipIf(process.getuid?.() !== 0)
const rootfs = layerTar(tarEntry('etc', 'directory'), tarFile('etc/os-release', 'ID=test'))

function filter(program: string): Buffer {
  const { status, stdout } = spawnSync(program, ['-c'], { input: rootfs })
  if (status !== 0) throw new Error(`${program} failed`)
  return stdout
}

rootTest.each([
  ['plain', () => rootfs],
  ['gzip', () => gzipSync(rootfs)],
  ['xz', () => filter('xz')],
  ['bzip2', () => filter('bzip2')],
  ['zstd', () => filter('zstd')],
])('a %s root file system becomes an image of one layer', async (_name, bytes) => {
  await using bench = await createBench()
  const image = await bench.withFile(bytes(), (input) => {
    utimesSync(input.path, 1_600_000_000, 1_600_000_000)
    return importRootfs({ ...input, name: 'base:1' }, bench.services, bench.options)
  })
  expect(image.names).toEqual(['base:1'])
  expect(JSON.parse(Buffer.from(image.record.configBytes).toString())).toEqual({
    created: '2020-09-13T12:26:40Z',
    architecture: 'amd64',
    os: 'linux',
    config: {},
    rootfs: { type: 'layers', diff_ids: [digestOf(rootfs)] },
    history: [{ created: '2020-09-13T12:26:40Z', comment: 'imported from tarball' }],
  })
})

rootTest('the same file imported twice keeps one layer', async () => {
  await using bench = await createBench()
  await bench.withFile(rootfs, async (input) => {
    await importRootfs({ ...input, name: undefined }, bench.services, bench.options)
    await importRootfs({ ...input, name: 'a:1' }, bench.services, bench.options)
  })
  expect(bench.store.records.size).toBe(1)
  expect([...bench.store.staged]).toEqual([])
})

rootTest('a tar that has a path twice becomes a layer that has it once', async () => {
  await using bench = await createBench()
  const first = [tarEntry('etc', 'directory'), tarFile('etc/name', 'one')]
  const appended = layerTar(...first, tarEntry('./etc/', 'directory'), tarFile('etc/name', 'two'))
  const { record } = await bench.withFile(appended, (input) =>
    importRootfs({ ...input, name: undefined }, bench.services, bench.options),
  )
  const out = join(bench.root, 'saved.tar')
  const fd = openSync(out, 'wx')
  await saveArchive({ images: [{ record, names: [] }], format: 'docker', fd }, bench.services, bench.options)
  closeSync(fd)
  const [diffId] = record.config.rootfs.diff_ids
  if (diffId === undefined) throw new Error('no layer')
  const run = (args: readonly string[], input?: Buffer): Buffer => spawnSync('tar', args, { input }).stdout
  const layer = run(['-xOf', out, `${digestHex(diffId)}/layer.tar`])
  expect(digestOf(layer)).toBe(diffId)
  const names = run(['-tf', '-'], layer).toString().split('\n')
  expect(names.filter((name) => name.startsWith('etc'))).toEqual(['etc/', 'etc/name'])
  expect(run(['-xOf', '-', 'etc/name'], layer).toString()).toBe('two')
})

rootTest('a stream is imported with the time of the import', async () => {
  await using bench = await createBench()
  const chunks = async function* () {
    yield gzipSync(rootfs)
  }
  const image = await importRootfs(
    { stream: chunks(), path: '-', name: undefined },
    bench.services,
    bench.options,
  )
  expect(image.record.config.created).toBe('2023-11-14T22:13:20.000Z')
})

rootTest.each([
  ['nothing', Buffer.alloc(0), 'ISB_ARCHIVE_INVALID'],
  ['text', Buffer.from('not a tar'.repeat(100)), 'ISB_ARCHIVE_INVALID'],
  ['a cut gzip file', gzipSync(rootfs).subarray(0, 60), 'ISB_ARCHIVE_INVALID'],
])('%s is refused and leaves nothing', async (_name, bytes, code) => {
  await using bench = await createBench()
  const importing = bench.withFile(bytes, (input) =>
    importRootfs({ ...input, name: 'a:1' }, bench.services, bench.options),
  )
  await expect(importing).rejects.toMatchObject({ code })
  expect(await bench.store.images.list()).toEqual([])
  expect([...bench.store.staged]).toEqual([])
})

test('a file above the limit is refused with both sizes', async () => {
  await using bench = await createBench()
  const services = { ...bench.services, limits: { ...bench.services.limits, importFile: 100 } }
  const importing = bench.withFile(rootfs, (input) =>
    importRootfs({ ...input, name: undefined }, services, bench.options),
  )
  const message = expect.stringMatching(/^file .*\/input size is: \d+, exceeds limit 100$/)
  await expect(importing).rejects.toMatchObject({ code: 'ISB_LIMIT_EXCEEDED', message })
})
