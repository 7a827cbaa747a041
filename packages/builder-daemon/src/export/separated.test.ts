import { closeSync, openSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { mkdir, open, rm } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { digestHex, digestOf } from '@isula-build/shared/oci/digest.js'
import { expect, test } from 'vitest'
import type { ArchiveDirectory } from './archive-directory.js'
import { loadArchive } from './load.js'
import { loadSeparated } from './separated-load.js'
import { type NamedImage, saveSeparated } from './separated-save.js'
import { type Bench, createBench, dockerArchive, layerTar, tarFile } from './test-archives.js'

const rootTest = test.skipIf(process.getuid?.() !== 0)
const [base, lib, app, other] = ['base', 'lib', 'app', 'other'].map((name) =>
  layerTar(tarFile(name, name)),
) as [Buffer, Buffer, Buffer, Buffer]
const none: ReadonlyMap<string, string> = new Map()

async function image(bench: Bench, name: string, layers: readonly Uint8Array[]): Promise<NamedImage> {
  const archive = dockerArchive({ layers, names: [name] })
  const [loaded] = await bench.withFile(archive, (input) => loadArchive(input, bench.services, bench.options))
  if (loaded === undefined) throw new Error('nothing was loaded')
  return { reference: name, name, record: loaded.record }
}

async function directoryOf(bench: Bench, name: string): Promise<ArchiveDirectory> {
  const path = join(bench.root, name)
  await mkdir(path)
  const openFd = async (file: string, flags: string): Promise<number> => {
    try {
      return openSync(join(path, basename(file)), flags)
    } catch (cause) {
      throw new BuilderError('ISB_PATH_NOT_FOUND', `${path}/${file}`, { cause })
    }
  }
  return {
    path,
    create: (file) => openFd(file, 'wx'),
    openRead: (file) => openFd(file, 'r'),
    remove: (file) => rm(join(path, file), { force: true }),
  }
}

function sha256(path: string): string {
  return digestHex(digestOf(readFileSync(path)))
}

rootTest('apps are saved without their base and lib and load again', async () => {
  await using bench = await createBench()
  const request = {
    base: await image(bench, 'base:1', [base]),
    lib: await image(bench, 'lib:1', [base, lib]),
    apps: [
      await image(bench, 'example.com/team/app:2', [base, lib, app]),
      await image(bench, 'another:latest', [base, lib, other, app]),
    ],
    directory: await directoryOf(bench, 'Images'),
    renames: new Map([
      ['app_2_app_image.tar.gz', 'app.tar.gz'],
      ['unknown', 'x'],
    ]),
  }
  await saveSeparated(request, bench.services, bench.options)
  const { path } = request.directory
  expect(readdirSync(path).sort()).toEqual([
    'another_latest_app_image.tar.gz',
    'another_latest_base_image.tar.gz',
    'another_latest_lib_image.tar.gz',
    'app.tar.gz',
    'manifest',
  ])
  const hex = (layer: Buffer): string => digestHex(digestOf(layer))
  expect(JSON.parse(readFileSync(join(path, 'manifest'), 'utf8'))['example.com/team/app:2']).toEqual({
    app: 'app.tar.gz',
    appHash: sha256(join(path, 'app.tar.gz')),
    appLayers: [hex(app)],
    lib: 'another_latest_lib_image.tar.gz',
    libHash: sha256(join(path, 'another_latest_lib_image.tar.gz')),
    libImageName: 'lib:1',
    libLayers: [hex(lib)],
    base: 'another_latest_base_image.tar.gz',
    baseHash: sha256(join(path, 'another_latest_base_image.tar.gz')),
    baseImageName: 'base:1',
    baseLayer: hex(base),
  })
  await using target = await createBench()
  const load = { directory: request.directory, base: undefined, lib: undefined, check: true }
  for (const saved of request.apps) {
    const loaded = await loadSeparated({ ...load, app: saved.name }, target.services, target.options)
    expect(loaded).toMatchObject([{ id: saved.record.id, names: [saved.name] }])
  }
  expect([...target.store.staged]).toEqual([])
})

rootTest('an app without a lib loads, and the same save gives the same bytes', async () => {
  await using bench = await createBench()
  const parts = {
    base: await image(bench, 'base:1', [base]),
    lib: undefined,
    apps: [await image(bench, 'app:latest', [base, app])],
    renames: none,
  }
  const [one, two] = [await directoryOf(bench, 'one'), await directoryOf(bench, 'two')]
  await saveSeparated({ ...parts, directory: one }, bench.services, bench.options)
  await saveSeparated({ ...parts, directory: two }, bench.services, bench.options)
  const files = readdirSync(one.path)
  expect(files).toHaveLength(3)
  for (const file of files) expect(sha256(join(one.path, file))).toBe(sha256(join(two.path, file)))
  await using target = await createBench()
  const request = { directory: one, app: 'app', base: undefined, lib: undefined, check: true }
  const loaded = await loadSeparated(request, target.services, target.options)
  expect(loaded).toMatchObject([{ id: parts.apps[0]?.record.id, names: ['app:latest'] }])
})

rootTest('images that do not stand on each other are refused and leave no file', async () => {
  await using bench = await createBench()
  const directory = await directoryOf(bench, 'Images')
  const named = {
    base: await image(bench, 'base:1', [base]),
    fat: await image(bench, 'fat:1', [base, other]),
    lib: await image(bench, 'lib:1', [base, lib]),
    strange: await image(bench, 'strange:1', [other, lib]),
    app: await image(bench, 'app:1', [base, lib, app]),
    wrong: await image(bench, 'wrong:1', [other, lib, app]),
  }
  const request = { base: named.base, lib: undefined, apps: [named.app], directory, renames: none }
  const id = { ...named.app, reference: named.app.record.id.slice(0, 12) }
  for (const [change, message] of [
    [{ base: named.fat }, 'number of base layers 2 more than one'],
    [{ apps: [named.app, named.wrong] }, 'dismatch checksum for base image base:1'],
    [{ lib: named.strange }, 'dismatch checksum for base image base:1'],
    [{ lib: named.fat }, 'dismatch checksum for lib image fat:1'],
    [{ lib: named.base }, 'base and lib images are the same'],
    [{ apps: [named.base] }, 'number of base or lib layers is equal or greater than saved app layers'],
    [
      { lib: named.lib, apps: [named.lib] },
      'number of base or lib layers is equal or greater than saved app layers',
    ],
    [{ apps: [id] }, `using image ID "${id.reference}" as image name to save separated image is not allowed`],
    [{ apps: [] }, 'no app image to save'],
  ] as const) {
    const saving = saveSeparated({ ...request, ...change }, bench.services, bench.options)
    await expect(saving, message).rejects.toMatchObject({ code: 'ISB_ARGUMENT_INVALID', message })
    expect(readdirSync(directory.path)).toEqual([])
  }
})

rootTest('what is wrong with a separated save is said when it is loaded', async () => {
  await using bench = await createBench()
  const directory = await directoryOf(bench, 'Images')
  const apps = [await image(bench, 'app:1', [base, app])]
  const parts = { base: await image(bench, 'base:1', [base]), lib: undefined, apps, renames: none }
  await saveSeparated({ ...parts, directory }, bench.services, bench.options)
  const request = { directory, app: 'app:1', base: undefined, lib: undefined, check: true }
  await using target = await createBench()
  const load = (change: object) => loadSeparated({ ...request, ...change }, target.services, target.options)
  await expect(load({ app: '' })).rejects.toThrow('app image name(-i) should not be empty')
  await expect(load({ app: 'nope:1' })).rejects.toThrow('failed to find app image nope:1')
  const appFile = join(directory.path, 'app_1_app_image.tar.gz')
  const baseFile = join(directory.path, 'app_1_base_image.tar.gz')
  const given = { fd: openSync(appFile, 'r'), path: appFile }
  try {
    await expect(load({ base: given })).rejects.toThrow('base and lib tarballs are the same')
  } finally {
    closeSync(given.fd)
  }
  const original = readFileSync(baseFile)
  writeFileSync(baseFile, Buffer.concat([original, Buffer.from('x')]))
  const message = `check sum for path ${baseFile} failed, got ${sha256(baseFile)}, want ${digestHex(digestOf(original))}`
  await expect(load({})).rejects.toMatchObject({ code: 'ISB_DIGEST_MISMATCH', message })
  writeFileSync(baseFile, readFileSync(appFile))
  await expect(load({ check: false })).rejects.toMatchObject({ code: 'ISB_ARCHIVE_INVALID' })
  expect(await target.store.images.list()).toEqual([])
  await using moved = await open(join(bench.root, 'moved.tar.gz'), 'w+')
  await moved.write(original, 0, original.length, 0)
  const loaded = await load({ base: { fd: moved.fd, path: 'moved.tar.gz' } })
  expect(loaded[0]?.id).toBe(apps[0]?.record.id)
})
