import { closeSync, createReadStream, createWriteStream, fsync } from 'node:fs'
import { pipeline } from 'node:stream/promises'
import { promisify } from 'node:util'
import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Descriptor } from '@isula-build/shared/oci/descriptor.js'
import { type Digest, digestHex, digestOf } from '@isula-build/shared/oci/digest.js'
import { arrayOf, decodeJson, objectOf, optional } from '@isula-build/shared/oci/json-document.js'
import { mediaTypes } from '@isula-build/shared/oci/media-types.js'
import type { CacheContent } from '../core/cache-exchange/collect.js'
import { cacheLimits, encodeCacheDocument } from '../core/cache-exchange/document.js'
import type { CachePlace, OpenedCache } from '../core/cache-exchange/imports.js'
import { decodeCacheManifest, emptyLayer, encodeCacheManifest } from '../core/cache-exchange/manifest.js'
import { decodeManifestDocument, type ManifestDocument } from '../core/image/manifest-document.js'
import { imageLimits } from '../core/images/image-limits.js'
import type { SavedLayer } from '../core/images/saved-layers.js'
import { throwIfCancelled } from '../core/transfer/cancelled.js'
import { makeLayerBlob, type PlacedBlob } from '../core/transfer/place-blob.js'
import type { SharedWork } from '../core/transfer/shared-work.js'
import type { TransferCall, TransferServices } from '../core/transfer/transfer.js'
import type { Caller, CallerFiles, OpenedFile } from '../ports/caller.js'
import type { CacheSource, CacheTarget } from '../rpc/cache-requests.js'
import { readDescriptor } from '../system/pipe-chunks.js'

// Caches in directories of the caller's: OCI layouts, every file opened as he could open it.

type DirectorySource = Extract<CacheSource, { kind: 'directory' }>
type DirectoryTarget = Extract<CacheTarget, { kind: 'directory' }>

interface DirectoryCall {
  readonly caller: Caller
  readonly files: CallerFiles
  readonly services: TransferServices
  readonly signal: AbortSignal
}

interface WritingCall extends DirectoryCall {
  readonly transfer: TransferCall
  /** Of all builds that write caches; its keys are directories. */
  readonly writing: SharedWork
}

/** Bytes of an index.json that is added to. */
const indexLimit = 60_000

/** Forms of a layer that are worth a look. */
const maxForms = 4

/** Marks ours among the manifests of a layout (OCI image spec, annotations.md). */
const refName = 'org.opencontainers.image.ref.name'
const ownName = 'isula-build-cache'
const layoutFile = Buffer.from('{"imageLayoutVersion":"1.0.0"}', 'utf8')

export function directoryCache(source: DirectorySource, call: DirectoryCall): CachePlace {
  const { path } = source
  return {
    name: path,
    async open(signal) {
      const reader = { ...call, signal }
      await checkDirectory(source, reader)
      const bytes = await readIndexFile(path, reader)
      if (bytes === undefined) return undefined
      const entry = ownEntry(decodeManifestDocument(bytes, `${path}/index.json`, mediaTypes.ociIndex))
      if (entry === undefined) return undefined
      const manifest = await readBlob(path, entry, imageLimits.document, reader)
      const { config, layers } = decodeCacheManifest(manifest, path)
      const document = await readBlob(path, config, cacheLimits.document, reader)
      return { layers, document, unpack: unpackFrom(path, call) }
    },
  }
}

async function checkDirectory({ path, expected }: DirectorySource, call: DirectoryCall): Promise<void> {
  await using directory = await call.files.openDirectory(call.caller, path, call.signal)
  const { dev, ino } = directory.identity
  if (expected === undefined || (dev === expected.dev && ino === expected.ino)) return
  throw new BuilderError('ISB_PATH_NOT_FOUND', `the daemon sees another directory at ${path}`)
}

function ownEntry(index: ManifestDocument): Descriptor | undefined {
  if (index.kind !== 'manifest') {
    return index.manifests.findLast(({ annotations }) => annotations?.[refName] === ownName)
  }
  return undefined
}

function unpackFrom(path: string, { caller, files, services }: DirectoryCall): OpenedCache['unpack'] {
  return async (blob, params, signal) => {
    const { fd } = await files.openRead(caller, blobPath(path, blob.digest), signal)
    try {
      const read = { fd, range: undefined, expectedDigest: blob.digest }
      return await services.workers.run('apply', { ...read, ...params }, signal)
    } finally {
      closeSync(fd)
    }
  }
}

/**
 * Adds the cache to the layout, made where there is none. Blobs are there before `index.json` names them; those that are
 * there already are looked at and, when they are not what their name says, written again. Builds that write into the same
 * directory take turns: what one is about to write is not what its name says either.
 */
export async function writeCacheDirectory(
  content: CacheContent,
  target: DirectoryTarget,
  call: WritingCall,
): Promise<void> {
  await makeDirectories(target, call)
  const key = await identityOf(target.path, call)
  const write = async () => {
    await addCache(content, target, call)
    return true
  }
  while ((await call.writing.run(key, write, call.signal)) === undefined) throwIfCancelled(call.signal)
}

async function identityOf(path: string, { files, caller, signal }: DirectoryCall): Promise<string> {
  await using directory = await files.openDirectory(caller, path, signal)
  return `${directory.identity.dev}:${directory.identity.ino}`
}

async function addCache(content: CacheContent, target: DirectoryTarget, call: WritingCall): Promise<void> {
  const { path } = target
  const index = await readIndex(path, call)
  const blobs: PlacedBlob[] = []
  for (const layer of content.layers) blobs.push(await addLayer(path, layer, target.compression, call))
  const document = encodeCacheDocument(content.document)
  const manifest = encodeCacheManifest({ digest: digestOf(document), size: document.length }, blobs)
  for (const bytes of [document, manifest.bytes, ...(blobs.length === 0 ? [emptyLayer] : [])]) {
    await addBlob(path, digestOf(bytes), (fd) => writeBytes(bytes, fd), call)
  }
  const entry = { ...manifest.descriptor, annotations: { [refName]: ownName } }
  const manifests = [...index.filter((one) => !isOwn(one)), entry]
  const text = JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests })
  if (text.length > indexLimit) {
    throw new BuilderError(
      'ISB_LIMIT_EXCEEDED',
      `${path}/index.json would have more than ${indexLimit} bytes`,
      {
        hint: 'Use a directory of its own for the cache.',
      },
    )
  }
  const { files, caller } = call
  await files.exchange(caller, `${path}/oci-layout`, layoutFile, 0o644)
  await files.exchange(caller, `${path}/index.json`, Buffer.from(text, 'utf8'), 0o644)
}

/** One of the known forms of the layer that is there, else a new one. */
async function addLayer(
  path: string,
  layer: SavedLayer,
  compression: DirectoryTarget['compression'],
  call: WritingCall,
): Promise<PlacedBlob> {
  const known = await call.services.memory.blobsOf(layer.diffId)
  const usable = known.filter((blob) => blob.compression === (compression ?? blob.compression))
  for (const blob of usable.slice(0, maxForms)) {
    if (await isWhole(path, blob.digest, call)) return blob
  }
  using made = await makeLayerBlob(layer, compression ?? 'gzip', call.services, call.transfer)
  await addBlob(path, made.blob.digest, (fd) => copyFile(made.path, fd, call.signal), call)
  return made.blob
}

async function makeDirectories({ path, parent }: DirectoryTarget, call: DirectoryCall): Promise<void> {
  const { files, caller, signal } = call
  if (parent !== undefined) {
    const above = path.slice(0, Math.max(1, path.lastIndexOf('/')))
    await checkDirectory({ kind: 'directory', path: above, expected: parent }, { ...call, signal })
  }
  for (const directory of [path, `${path}/blobs`, `${path}/blobs/sha256`]) {
    try {
      await files.createDirectory(caller, directory, 0o755)
    } catch (error) {
      if (!isBuilderError(error, 'ISB_ALREADY_EXISTS')) throw error
    }
  }
}

/** undefined when there is none, and for the empty file that an interrupted build leaves. */
async function readIndexFile(path: string, call: DirectoryCall): Promise<Uint8Array | undefined> {
  const bytes = await readFile(`${path}/index.json`, imageLimits.document, call)
  return bytes?.length === 0 ? undefined : bytes
}

/** What else the layout holds, as it is written there. */
async function readIndex(path: string, call: DirectoryCall): Promise<readonly unknown[]> {
  const bytes = await readIndexFile(path, call)
  if (bytes === undefined) return []
  const what = `${path}/index.json`
  return optional(objectOf(decodeJson(bytes, what), what), 'manifests', arrayOf) ?? []
}

function isOwn(entry: unknown): boolean {
  const annotations = optional(objectOf(entry, 'an entry of index.json'), 'annotations', objectOf)
  return annotations?.[refName] === ownName
}

const flush = promisify(fsync)

async function addBlob(
  path: string,
  digest: Digest,
  write: (fd: number) => Promise<void>,
  call: DirectoryCall,
): Promise<void> {
  const { files, caller, signal } = call
  if (await isWhole(path, digest, call)) return
  const place = blobPath(path, digest)
  const file = await files.create(caller, place, 0o644, { signal })
  let isDone = false
  try {
    await write(file.fd)
    // What index.json names is there, also after the power went.
    await flush(file.fd)
    isDone = true
  } finally {
    closeSync(file.fd)
    if (!isDone) await files.removeCreated(caller, place, file)
  }
}

/** A file that an earlier, interrupted build left is removed. */
async function isWhole(path: string, digest: Digest, call: DirectoryCall): Promise<boolean> {
  const place = blobPath(path, digest)
  const file = await openIfThere(place, call)
  if (file === undefined) return false
  try {
    const range = { offset: 0, length: file.size }
    const found = await call.services.workers.run('digest', { fd: file.fd, range }, call.signal)
    if (found.digest === digest) return true
  } finally {
    closeSync(file.fd)
  }
  await call.files.removeCreated(call.caller, place, file)
  return false
}

async function readBlob(
  path: string,
  { digest, size }: Descriptor,
  limit: number,
  call: DirectoryCall,
): Promise<Uint8Array> {
  const place = blobPath(path, digest)
  const bytes = await readFile(place, limit, call)
  if (bytes === undefined) throw new BuilderError('ISB_PATH_NOT_FOUND', `${place} does not exist`)
  if (bytes.length === size && digestOf(bytes) === digest) return bytes
  throw new BuilderError('ISB_DIGEST_MISMATCH', `${place} is not what its name says`)
}

/** undefined when there is none. */
async function readFile(path: string, limit: number, call: DirectoryCall): Promise<Uint8Array | undefined> {
  const file = await openIfThere(path, call)
  if (file === undefined) return undefined
  try {
    const content = await readDescriptor(file.fd, limit, call.signal)
    if (content !== undefined) return content
    throw new BuilderError('ISB_LIMIT_EXCEEDED', `${path} is larger than ${limit} bytes`)
  } finally {
    closeSync(file.fd)
  }
}

async function openIfThere(path: string, call: DirectoryCall): Promise<OpenedFile | undefined> {
  try {
    return await call.files.openRead(call.caller, path, call.signal)
  } catch (error) {
    if (isBuilderError(error, 'ISB_PATH_NOT_FOUND')) return undefined
    throw error
  }
}

async function copyFile(from: string, fd: number, signal: AbortSignal): Promise<void> {
  const target = createWriteStream('', { fd, autoClose: false })
  await pipeline(createReadStream(from, { highWaterMark: 1 << 20 }), target, { signal })
}

async function writeBytes(bytes: Uint8Array, fd: number): Promise<void> {
  await pipeline([bytes], createWriteStream('', { fd, autoClose: false }))
}

function blobPath(path: string, digest: Digest): string {
  return `${path}/blobs/sha256/${digestHex(digest)}`
}
