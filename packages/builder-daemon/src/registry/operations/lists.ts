import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Descriptor } from '@isula-build/shared/oci/descriptor.js'
import { type Digest, digestHex, parseDigest } from '@isula-build/shared/oci/digest.js'
import { arrayOf, decodeJson, member, objectOf, optional } from '@isula-build/shared/oci/json-document.js'
import { mediaTypes } from '@isula-build/shared/oci/media-types.js'
import { decodeDescriptor } from '../../core/image/manifest-document.js'
import type { Answer } from '../http/exchange.js'
import { nextPage } from '../http/link.js'
import { manifestLimit } from './manifest-document.js'
import { findManifest } from './manifests.js'
import { checkedDigest, isTag, nameOf, pullScope, repositoryPath, type Target } from './target.js'
import { fetchWhole, type WholeAnswer } from './whole-answer.js'

const maxPages = 1000
const pageSize = 1000
/** Of all pages together, MiB. */
const maxTotal = 16

/** What `RegistryClient.tags` does (OCI distribution spec, "Listing tags"). What is no tag is left out. */
export async function listTags(target: Target): Promise<readonly string[]> {
  const what = `tags of ${nameOf(target.endpoint)}`
  const tags: string[] = []
  for await (const { answer, bytes } of pages(target, {
    ...{ first: repositoryPath(target.endpoint, `tags/list?n=${pageSize}`), what },
    ...{ accept: 'application/json', expect: [200, 404] },
  })) {
    if (answer.status === 404) {
      throw new BuilderError('ISB_IMAGE_NOT_FOUND', `${nameOf(target.endpoint)} does not exist (status 404)`)
    }
    const page = decodePage(bytes, what, (json) => optional(json, 'tags', arrayOf) ?? [])
    for (const tag of page) if (typeof tag === 'string' && isTag(tag)) tags.push(tag)
  }
  return tags
}

/**
 * What `RegistryClient.referrers` does (OCI distribution spec, "Listing Referrers"): registries that do not know the
 * request may have an index under a tag made of the digest. Descriptors with digests other than sha256 are left out.
 */
export async function listReferrers(target: Target, digest: Digest): Promise<readonly Descriptor[]> {
  const what = `referrers of ${digest} in ${nameOf(target.endpoint)}`
  const found: Descriptor[] = []
  for await (const { answer, bytes } of pages(target, {
    ...{ first: repositoryPath(target.endpoint, `referrers/${checkedDigest(digest)}`), what },
    ...{ accept: mediaTypes.ociIndex, expect: [200, 400, 404, 405, 501] },
  })) {
    if (answer.status !== 200 || !isIndex(answer)) return await taggedReferrers(target, digest)
    found.push(...descriptorsOf(bytes, what))
  }
  return found
}

/** OCI distribution spec, "Referrers Tag Schema". */
export function referrersTag(digest: Digest): string {
  return `sha256-${digestHex(digest)}`
}

async function taggedReferrers(target: Target, digest: Digest): Promise<readonly Descriptor[]> {
  const tag = referrersTag(digest)
  const manifest = await findManifest(target, tag)
  if (manifest?.mediaType !== mediaTypes.ociIndex) return []
  return descriptorsOf(manifest.bytes, `manifest ${tag} of ${nameOf(target.endpoint)}`)
}

function isIndex(answer: Answer): boolean {
  return answer.headers['content-type']?.split(';')[0]?.trim().toLowerCase() === mediaTypes.ociIndex
}

function descriptorsOf(bytes: Uint8Array, what: string): readonly Descriptor[] {
  return decodePage(bytes, what, (json) =>
    (optional(json, 'manifests', arrayOf) ?? [])
      .filter((item) => parseDigest(member(objectOf(item, what), 'digest')) !== undefined)
      .map((item) => decodeDescriptor(item, `a manifest in ${what}`)),
  )
}

function decodePage<T>(bytes: Uint8Array, what: string, decode: (json: ReturnType<typeof objectOf>) => T): T {
  try {
    return decode(objectOf(decodeJson(bytes, what), what))
  } catch (error) {
    if (!isBuilderError(error, 'ISB_ARCHIVE_INVALID')) throw error
    throw new BuilderError('ISB_MANIFEST_INVALID', `${what}: ${error.message}`, { cause: error })
  }
}

interface Listing {
  readonly first: string
  readonly what: string
  readonly accept: string
  readonly expect: readonly number[]
}

/** The pages that `Link: <…>; rel="next"` connects, all of one origin (RFC 8288). */
async function* pages(target: Target, listing: Listing): AsyncGenerator<WholeAnswer, void, undefined> {
  const { first, what, accept, expect } = listing
  let next: string | URL = first
  let size = 0
  for (let count = 0; ; count++) {
    if (count === maxPages) {
      throw new BuilderError('ISB_LIMIT_EXCEEDED', `${what}: the list has more than ${maxPages} pages`)
    }
    const page = await fetchWhole(
      target,
      {
        ...{ method: 'GET', target: next, expect, repeat: 'safe' },
        ...{ headers: { accept, 'accept-encoding': 'identity' }, scope: pullScope(target.endpoint) },
      },
      manifestLimit,
      what,
    )
    size += page.bytes.length
    if (size > maxTotal << 20) {
      throw new BuilderError('ISB_LIMIT_EXCEEDED', `${what}: the list is larger than ${maxTotal} MiB`)
    }
    yield page
    const following = nextPage(page.answer.headers['link'], page.answer.url)
    if (following === undefined) return
    if (following.origin !== page.answer.url.origin) {
      throw new BuilderError(
        'ISB_REGISTRY_DENIED',
        `${what}: the next page is said to be at ${following.origin}, which is another registry`,
      )
    }
    next = following
  }
}
