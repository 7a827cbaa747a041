import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import {
  canonicalName,
  formatCanonical,
  type ImageReference,
  parseReference,
} from '@isula-build/shared/oci/reference.js'
import { withLowerHost } from '../registries/prefix.js'
import type { SignedIdentity } from './policy.js'

/**
 * Whether a signature for `signed` (its `docker-reference`) counts for the image that was asked for as `asked`
 * (containers-policy.json(5), "signedIdentity"). Of `name:tag@digest` only the digest counts, as it decides what is
 * fetched.
 */
export function identityMatches(identity: SignedIdentity, asked: ImageReference, signed: string): boolean {
  const stated = parse(signed)
  if (stated === undefined) return false
  switch (identity.type) {
    case 'matchExact':
      return isVersioned(asked) && exact(stated, withoutTag(asked))
    case 'matchRepoDigestOrExact':
      return repoDigestOrExact(asked, stated)
    case 'matchRepository':
      return name(stated) === name(asked)
    case 'exactReference':
      return exact(stated, identity.reference)
    case 'exactRepository':
      return name(stated) === name(identity.reference)
    case 'remapIdentity': {
      const remapped = remap(asked, withLowerHost(identity.prefix), identity.signedPrefix)
      return remapped !== undefined && repoDigestOrExact(remapped, stated)
    }
  }
}

function repoDigestOrExact(asked: ImageReference, stated: ImageReference): boolean {
  if (!isVersioned(stated) || !isVersioned(asked)) return false
  return asked.digest === undefined ? exact(stated, asked) : name(stated) === name(asked)
}

/** undefined when the new name is none. */
function remap(asked: ImageReference, prefix: string, signedPrefix: string): ImageReference | undefined {
  const old = name(asked)
  if (old !== prefix && !old.startsWith(`${prefix}/`)) return asked
  const renamed = parse(signedPrefix + old.slice(prefix.length))
  if (renamed === undefined) return undefined
  return { ...asked, domain: renamed.domain, path: renamed.path }
}

function parse(text: string): ImageReference | undefined {
  try {
    return parseReference(text)
  } catch (error) {
    if (isBuilderError(error, 'ISB_REFERENCE_INVALID')) return undefined
    throw error
  }
}

function name(reference: ImageReference): string {
  return withLowerHost(canonicalName(reference))
}

function exact(one: ImageReference, other: ImageReference): boolean {
  return isVersioned(one) && withLowerHost(formatCanonical(one)) === withLowerHost(formatCanonical(other))
}

function isVersioned({ tag, digest }: ImageReference): boolean {
  return tag !== undefined || digest !== undefined
}

function withoutTag(reference: ImageReference): ImageReference {
  const { tag: _tag, ...rest } = reference
  return reference.digest === undefined ? reference : rest
}
