import { createHash } from 'node:crypto'
import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { digestOf, parseDigest } from '@isula-build/shared/oci/digest.js'
import type { ManifestHead, RemoteManifest } from '../../ports/registry.js'
import { acceptedManifests, manifestLimit, manifestTypeOf } from './manifest-document.js'
import { isTag, manifestPath, nameOf, pullScope, send, statedDigests, type Target } from './target.js'
import { fetchWhole, type WholeAnswer } from './whole-answer.js'

/** What `RegistryClient.manifest` does. */
export async function readManifest(target: Target, reference: string): Promise<RemoteManifest> {
  const found = await findManifest(target, reference)
  if (found !== undefined) return found
  throw new BuilderError('ISB_IMAGE_NOT_FOUND', `${titleOf(target, reference)} does not exist (status 404)`, {
    hint: `Check the name and the ${isTag(reference) ? 'tag' : 'digest'}; a private image needs a login.`,
  })
}

/** undefined when the registry does not have it. */
export async function findManifest(target: Target, reference: string): Promise<RemoteManifest | undefined> {
  const what = titleOf(target, reference)
  const { answer, bytes } = await getManifest(target, reference, what)
  if (answer.status === 404) return undefined
  const digest = digestOf(bytes)
  const asked = parseDigest(reference)
  if (asked !== undefined && asked !== digest) {
    throw new BuilderError('ISB_DIGEST_MISMATCH', `${what}: what the registry sent has digest ${digest}`)
  }
  checkDigestHeader(answer.headers['docker-content-digest'], bytes, what)
  return { mediaType: manifestTypeOf(bytes, answer.headers['content-type'], what), bytes, digest }
}

async function getManifest(target: Target, reference: string, what: string): Promise<WholeAnswer> {
  try {
    return await fetchWhole(
      target,
      {
        ...{
          method: 'GET',
          target: manifestPath(target.endpoint, reference),
          expect: [200, 404],
          repeat: 'safe',
        },
        headers: { accept: acceptedManifests, 'accept-encoding': 'identity' },
        scope: pullScope(target.endpoint),
      },
      manifestLimit,
      what,
    )
  } catch (error) {
    if (!isBuilderError(error, 'ISB_LIMIT_EXCEEDED')) throw error
    throw new BuilderError('ISB_LIMIT_EXCEEDED', `${what} is larger than ${manifestLimit >> 20} MiB`)
  }
}

/** What `RegistryClient.manifestHead` does. Registries that do not answer HEAD as they should are asked by GET. */
export async function headManifest(target: Target, reference: string): Promise<ManifestHead | undefined> {
  const answer = await send(
    target,
    {
      ...{ method: 'HEAD', target: manifestPath(target.endpoint, reference), repeat: 'safe' },
      ...{ headers: { accept: acceptedManifests }, scope: pullScope(target.endpoint) },
      expect: [200, 400, 404, 405, 501],
    },
    titleOf(target, reference),
  )
  await answer.discard()
  const { 'content-type': type = '', 'content-length': length = '' } = answer.headers
  if (answer.status === 404 && isRegistryAnswer(answer.headers)) return undefined
  const [stated, ...others] = statedDigests(answer.headers['docker-content-digest'])
  const digest = others.every((other) => other === stated) ? parseDigest(stated) : undefined
  if (answer.status === 200 && digest !== undefined && /^\d{1,15}$/.test(length)) {
    return { mediaType: type.split(';')[0]?.trim() ?? '', digest, size: Number(length) }
  }
  const found = await findManifest(target, reference)
  return found && { mediaType: found.mediaType, digest: found.digest, size: found.bytes.length }
}

/** A 404 of something in front of a registry, which knows no HEAD, looks otherwise. */
function isRegistryAnswer(headers: Readonly<Record<string, string>>): boolean {
  return (
    headers['docker-distribution-api-version'] !== undefined ||
    /^application\/(?:[^;]*\+)?json\b/.test(headers['content-type'] ?? '')
  )
}

/** OCI distribution spec, "Pulling manifests": whoever uses the header verifies it. Other algorithms say nothing here. */
export function checkDigestHeader(header: string | undefined, bytes: Uint8Array, what: string): void {
  for (const stated of statedDigests(header)) {
    const [, algorithm = '', hex] = /^(sha256|sha384|sha512):([0-9a-f]+)$/i.exec(stated) ?? []
    if (hex === undefined) continue
    const actual = createHash(algorithm.toLowerCase()).update(bytes).digest('hex')
    if (actual === hex.toLowerCase()) continue
    throw new BuilderError(
      'ISB_DIGEST_MISMATCH',
      `${what}: the registry says its digest is ${algorithm}:${hex.slice(0, 128)}, but it is ${actual}`,
    )
  }
}

export function titleOf({ endpoint }: Target, reference: string): string {
  return `manifest ${reference} of ${nameOf(endpoint)}`
}
