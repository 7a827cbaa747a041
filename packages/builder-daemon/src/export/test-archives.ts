import { mkdtempSync, rmSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { digestHex, digestOf } from '@isula-build/shared/oci/digest.js'
import { noAttributes, padding, type TarEntry } from '../layer/tar/entry.js'
import { encodeHeader } from '../layer/tar/writer.js'
import { defaultLimits } from './archive-limits.js'
import type { ArchiveOptions, ArchiveServices } from './archive-services.js'
import { createFakeStore, type FakeStore } from './fake-store.js'
import { createFakeWorkers } from './fake-workers.js'
import { loadArchive } from './load.js'
import type { LoadedImage } from './load-images.js'

/** For tests: what archives are made of, and a store to load them into. */

export function tarEntry(path: string, type: TarEntry['type'], linkName = '', size = 0): Buffer {
  return encodeHeader({
    path,
    type,
    mode: type === 'directory' ? 0o755 : 0o644,
    uid: 0,
    gid: 0,
    size,
    mtimeNs: 1_000_000_000n,
    linkName,
    deviceMajor: 0,
    deviceMinor: 0,
    xattrs: noAttributes,
  })
}

export function tarFile(path: string, content: string | Uint8Array): Buffer {
  const bytes = Buffer.from(content)
  return Buffer.concat([tarEntry(path, 'file', '', bytes.length), bytes, Buffer.alloc(padding(bytes.length))])
}

export const tarEnd = Buffer.alloc(1024)

export function layerTar(...entries: readonly Buffer[]): Buffer {
  return Buffer.concat([...entries, tarEnd])
}

export function json(value: unknown): Buffer {
  return Buffer.from(JSON.stringify(value))
}

/** A configuration over these uncompressed layers. */
export function configOf(
  layers: readonly Uint8Array[],
  extra: Readonly<Record<string, unknown>> = {},
): Buffer {
  return json({
    architecture: 'amd64',
    os: 'linux',
    config: {},
    rootfs: { type: 'layers', diff_ids: layers.map((layer) => digestOf(layer)) },
    ...extra,
  })
}

/** A docker archive of one image. */
export function dockerArchive(image: {
  readonly layers: readonly Uint8Array[]
  readonly names?: readonly string[] | null
  readonly config?: Uint8Array
}): Buffer {
  const config = image.config ?? configOf(image.layers)
  const files = image.layers.map((layer, i) => tarFile(`layer-${i}.tar`, layer))
  const Config = `${digestHex(digestOf(config))}.json`
  const Layers = image.layers.map((_layer, i) => `layer-${i}.tar`)
  const manifest = json([{ Config, RepoTags: image.names ?? null, Layers }])
  return Buffer.concat([...files, tarFile(Config, config), tarFile('manifest.json', manifest), tarEnd])
}

export interface Bench extends AsyncDisposable {
  readonly root: string
  readonly store: FakeStore
  readonly services: ArchiveServices
  readonly options: ArchiveOptions
  readonly ran: readonly string[]
  readonly log: readonly string[]
  /** Writes the bytes to a file and gives its descriptor to `use`. */
  withFile<T>(bytes: Uint8Array, use: (input: { fd: number; path: string }) => Promise<T>): Promise<T>
}

export async function createBench(): Promise<Bench> {
  const root = mkdtempSync(join(tmpdir(), 'archives-'))
  const store = createFakeStore(root)
  const workers = createFakeWorkers()
  const log: string[] = []
  return {
    root,
    store,
    log,
    ran: workers.ran,
    services: {
      layers: store.layers,
      images: store.images,
      workers,
      clock: { now: () => 1_700_000_000_000 },
      platform: { os: 'linux', architecture: 'amd64' },
      limits: defaultLimits,
    },
    options: {
      owner: 0,
      lease: { id: 'lease' },
      signal: new AbortController().signal,
      onLog: (line) => log.push(line),
    },
    withFile: async (bytes, use) => {
      const path = join(root, 'input')
      await using handle = await open(path, 'w+')
      await handle.write(bytes, 0, bytes.length, 0)
      return await use({ fd: handle.fd, path })
    },
    [Symbol.asyncDispose]: async () => rmSync(root, { recursive: true }),
  }
}

export const ociTypes = {
  manifest: 'application/vnd.oci.image.manifest.v1+json',
  index: 'application/vnd.oci.image.index.v1+json',
  config: 'application/vnd.oci.image.config.v1+json',
  layer: 'application/vnd.oci.image.layer.v1.tar',
}

/** An OCI layout from blobs and the descriptors of index.json. */
export function ociLayout(blobs: readonly Uint8Array[], index: unknown): Buffer {
  const files = blobs.map((blob) => tarFile(`blobs/sha256/${digestHex(digestOf(blob))}`, blob))
  return Buffer.concat([
    ...files,
    tarFile('oci-layout', json({ imageLayoutVersion: '1.0.0' })),
    tarFile('index.json', json(index)),
    tarEnd,
  ])
}

export function descriptorOf(blob: Uint8Array, mediaType: string, extra: object = {}): object {
  return { mediaType, digest: digestOf(blob), size: blob.length, ...extra }
}

export function ociManifest(
  config: Uint8Array,
  layers: readonly Uint8Array[],
  type = ociTypes.layer,
): Buffer {
  return json({
    schemaVersion: 2,
    mediaType: ociTypes.manifest,
    config: descriptorOf(config, ociTypes.config),
    layers: layers.map((layer) => descriptorOf(layer, type)),
  })
}

export async function loadInto(bench: Bench, archive: Uint8Array): Promise<readonly LoadedImage[]> {
  return bench.withFile(archive, (input) => loadArchive(input, bench.services, bench.options))
}

/** Throws unless loading fails with this code and leaves no image and no staging directory. */
export async function expectRefused(archive: Uint8Array, code: string, message = /./): Promise<void> {
  await using bench = await createBench()
  const failure = await loadInto(bench, archive).then(
    () => new Error('the archive was accepted'),
    (error: unknown) => error,
  )
  if (!(failure instanceof BuilderError) || failure.code !== code || !message.test(failure.message))
    throw failure
  const images = await bench.store.images.list()
  if (images.length > 0 || bench.store.staged.size > 0) throw new Error('something was left behind')
}
