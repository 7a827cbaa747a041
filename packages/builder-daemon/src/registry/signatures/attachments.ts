import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { type Digest, digestHex } from '@isula-build/shared/oci/digest.js'
import { decodeManifestDocument } from '../../core/image/manifest-document.js'
import type { Endpoint, RegistryCall, RegistryClient, RemoteManifest } from '../../ports/registry.js'
import { maxSignatures, signatureLimit } from './verdict.js'

const payloadType = 'application/vnd.dev.cosign.simplesigning.v1+json'
const signatureKey = 'dev.cosignproject.cosign/signature'

export interface Attachment {
  readonly payload: Uint8Array
  readonly signature: Uint8Array
}

/**
 * Signatures of cosign's for a manifest: layers of the image `sha256-<hex>.sig` of the same repository (cosign,
 * SIGNATURE_SPEC.md). Fails like RegistryClient.
 */
export async function readAttachments(
  client: RegistryClient,
  endpoint: Endpoint,
  digest: Digest,
  call: RegistryCall,
): Promise<readonly Attachment[]> {
  const tag = `sha256-${digestHex(digest)}.sig`
  const manifest = await orNothing(client.manifest(endpoint, tag, call))
  if (manifest === undefined) return []
  const document = decodeManifestDocument(manifest.bytes, `${endpoint.repository}:${tag}`, manifest.mediaType)
  if (document.kind !== 'manifest') return []
  const attachments: Attachment[] = []
  const layers = document.layers.filter(({ mediaType }) => mediaType === payloadType)
  for (const layer of layers.slice(0, maxSignatures)) {
    const written = layer.annotations?.[signatureKey]
    if (written === undefined) continue
    const payload = await client.readBlob(endpoint, layer, signatureLimit, call)
    attachments.push({ payload, signature: Buffer.from(written, 'base64') })
  }
  return attachments
}

async function orNothing(asked: Promise<RemoteManifest>): Promise<RemoteManifest | undefined> {
  try {
    return await asked
  } catch (error) {
    if (isBuilderError(error, 'ISB_IMAGE_NOT_FOUND')) return undefined
    throw error
  }
}
