import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { digestOf, parseDigest } from '@isula-build/shared/oci/digest.js'
import { mediaTypes } from '@isula-build/shared/oci/media-types.js'
import { checkDigestHeader, titleOf } from './manifests.js'
import { type Refusal, readRefusal } from './refusal.js'
import { manifestPath, nameOf, pushScope, send, type Target } from './target.js'

export interface ManifestBytes {
  readonly mediaType: string
  readonly bytes: Uint8Array
}

/**
 * What `RegistryClient.putManifest` does. Fails with ISB_IMAGE_NOT_FOUND when the registry misses a blob or manifest that
 * this one names.
 */
export async function putManifest(target: Target, reference: string, manifest: ManifestBytes): Promise<void> {
  const { endpoint } = target
  const what = titleOf(target, reference)
  const digest = digestOf(manifest.bytes)
  const path = manifestPath(endpoint, reference)
  if (parseDigest(reference) !== undefined && reference !== digest) {
    throw new BuilderError('ISB_DIGEST_MISMATCH', `${what}: the manifest has digest ${digest}`)
  }
  const answer = await send(
    target,
    {
      ...{ method: 'PUT', target: path, scope: pushScope(endpoint), repeat: 'safe' },
      headers: { 'content-type': manifest.mediaType },
      body: {
        size: manifest.bytes.length,
        async *open() {
          yield manifest.bytes
        },
      },
      expect: [201, 200, 202, 204, 400, 404, 405, 406, 413, 415, 422],
    },
    what,
  )
  if (answer.status >= 400) throw refused(target, what, manifest.mediaType, await readRefusal(answer))
  await answer.discard()
  checkDigestHeader(answer.headers['docker-content-digest'], manifest.bytes, what)
}

const formatCodes = ['MANIFEST_INVALID', 'UNSUPPORTED', 'UNSUPPORTED_MEDIA_TYPE', 'MANIFEST_UNVERIFIED']

function refused(target: Target, what: string, mediaType: string, refusal: Refusal): BuilderError {
  const place = nameOf(target.endpoint)
  if (['MANIFEST_BLOB_UNKNOWN', 'BLOB_UNKNOWN', 'MANIFEST_UNKNOWN'].includes(refusal.code)) {
    return new BuilderError('ISB_IMAGE_NOT_FOUND', `${place} misses a part of ${what}: ${refusal.text}`, {
      hint: 'Push again; the registry may have removed a blob in the meantime.',
    })
  }
  if (refusal.status === 413) {
    return new BuilderError('ISB_REGISTRY_DENIED', `${what} is too large for the registry: ${refusal.text}`)
  }
  const isOci = [mediaTypes.ociManifest, mediaTypes.ociIndex].some((type) => type === mediaType)
  const isFormat = formatCodes.includes(refusal.code) || [405, 406, 415].includes(refusal.status)
  if (refusal.status !== 404 && isOci && (isFormat || refusal.code === '')) {
    return new BuilderError(
      'ISB_REGISTRY_DENIED',
      `${place} does not take the OCI format (${mediaType}): ${refusal.text}`,
      { hint: 'Push with `--format docker`.' },
    )
  }
  return new BuilderError('ISB_REGISTRY_DENIED', `${place} refused ${what} (${mediaType}): ${refusal.text}`)
}
