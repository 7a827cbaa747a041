import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Descriptor } from '@isula-build/shared/oci/descriptor.js'
import type { Digest } from '@isula-build/shared/oci/digest.js'
import { isForeignLayer } from '@isula-build/shared/oci/media-types.js'
import { parseReference } from '@isula-build/shared/oci/reference.js'
import type { Endpoint, RemoteManifest } from '../../ports/registry.js'
import { decodeManifestDocument } from '../image/manifest-document.js'
import { imageLimits } from '../images/image-limits.js'
import { inParallel } from '../images/in-parallel.js'
import { fromRegistry, type ImageDocument } from './choose.js'
import { firstThat, nameOf, registryCall } from './locate.js'
import type { PushedManifest, TransferCall, TransferServices } from './transfer.js'

/** Blobs on their way at the same time. */
const blobsAtOnce = 4

interface Source {
  /** Canonical name of a repository. */
  readonly name: string
  readonly digest: Digest
  readonly size: number
}

/**
 * Makes an image of one repository appear in another as it is, byte by byte, without storing it here: blobs that are
 * not there yet are mounted where both repositories are of one registry, else they go through a file. policy.json
 * decides as for a pull. Fails as RegistryClient and RegistryRules do.
 */
export async function copyImage(
  source: Source,
  to: { readonly endpoint: Endpoint; readonly name: string },
  services: TransferServices,
  call: TransferCall,
): Promise<PushedManifest> {
  const reference = parseReference(`${source.name}@${source.digest}`)
  const endpoints = services.rules.endpoints(reference)
  const { endpoint: from, value: manifest } = await firstThat(endpoints, call, (one, asking) =>
    services.client.manifest(one, source.digest, asking),
  )
  const what = `manifest ${source.digest} of ${nameOf(from)}`
  if (manifest.bytes.length !== source.size) {
    const sizes = `${manifest.bytes.length} bytes, the list says ${source.size}`
    throw new BuilderError('ISB_DIGEST_MISMATCH', `${what} has ${sizes}`)
  }
  const document = imageOf(manifest, what)
  await services.rules.admit({ reference, endpoint: from, manifest, index: undefined }, registryCall(call))
  const { digest } = manifest
  const pushed = { digest, size: manifest.bytes.length, mediaType: manifest.mediaType }
  const { endpoint } = to
  if (from.host === endpoint.host && from.repository === endpoint.repository) return pushed
  call.onLog('Getting image source signatures')
  const ordered = endpoints.slice(endpoints.indexOf(from))
  const blobs = new Map([...document.layers, document.config].map((blob) => [blob.digest, blob]))
  await placeAll([...blobs.values()], { from: ordered, to: endpoint, what }, services, call)
  call.onLog('Writing manifest to image destination')
  await services.client.putManifest(endpoint, digest, manifest, registryCall(call))
  call.onLog('Storing signatures')
  return pushed
}

function imageOf(manifest: RemoteManifest, what: string): ImageDocument {
  try {
    const document = decodeManifestDocument(manifest.bytes, what, manifest.mediaType || undefined)
    if (document.kind === 'manifest') return document
  } catch (error) {
    throw fromRegistry(error)
  }
  throw new BuilderError('ISB_MANIFEST_INVALID', `${what} is no image but a list`)
}

interface Route {
  /** Where the blobs are, the likeliest first. */
  readonly from: readonly Endpoint[]
  readonly to: Endpoint
  /** For messages: the manifest that lists the blobs. */
  readonly what: string
}

/** The first failure stops all others and is the one that is thrown. */
async function placeAll(
  blobs: readonly Descriptor[],
  route: Route,
  services: TransferServices,
  call: TransferCall,
): Promise<void> {
  const stop = new AbortController()
  const own = { ...call, signal: AbortSignal.any([call.signal, stop.signal]) }
  let first: { readonly error: unknown } | undefined
  await inParallel(blobs, blobsAtOnce, async (blob) => {
    try {
      await placeBlob(blob, route, services, own)
    } catch (error) {
      first ??= { error }
      stop.abort()
      throw first.error
    }
  })
}

async function placeBlob(
  blob: Descriptor,
  { from, to, what }: Route,
  services: TransferServices,
  call: TransferCall,
): Promise<void> {
  const { client, files, memory } = services
  const { digest, size, mediaType } = blob
  const { uid } = call.access
  const seen = () => memory.rememberPlace(uid, to.host, to.repository, [digest])
  if (size > imageLimits.layer) {
    throw new BuilderError('ISB_LIMIT_EXCEEDED', `${what} lists a blob of ${size} bytes`)
  }
  if (await client.hasBlob(to, digest, registryCall(call))) {
    call.onLog(`Copying blob ${digest} skipped: already exists`)
    return await seen()
  }
  for (const { host, repository } of from) {
    if (host !== to.host || repository === to.repository) continue
    if (!(await client.mountBlob(to, digest, repository, registryCall(call)))) continue
    call.onLog(`Copying blob ${digest} skipped: mounted from ${repository}`)
    return await seen()
  }
  // Nobody has to have such a layer; whoever runs the image gets it elsewhere.
  if (isForeignLayer(mediaType) && !(await isAtAny(from, digest, services, call))) {
    call.onLog(`[Warning] Layer ${digest} is not to be distributed, and is left out`)
    return
  }
  call.onLog(`Copying blob ${digest}`)
  const onProgress = (done: number): void => call.onProgress?.(digest, done, size)
  const fill = async (path: string, signal: AbortSignal): Promise<void> => {
    await firstThat(from, { ...call, signal }, (one, asking) =>
      client.fetchBlob(one, blob, { path, onProgress }, asking),
    )
  }
  const origin = `${from.map(nameOf).join(' ')} ${call.access.tlsVerify ?? ''}`
  {
    using held = await files.obtain(uid, digest, fill, call.signal, origin)
    await client.uploadBlob(to, { digest, size, path: held.path, onProgress }, registryCall(call))
  }
  await files.release(uid, [digest])
  await seen()
}

async function isAtAny(
  endpoints: readonly Endpoint[],
  digest: Digest,
  { client }: TransferServices,
  call: TransferCall,
): Promise<boolean> {
  for (const one of endpoints) if (await client.hasBlob(one, digest, registryCall(call))) return true
  return false
}
