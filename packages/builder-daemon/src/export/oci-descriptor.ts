import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Descriptor } from '@isula-build/shared/oci/descriptor.js'
import { digestHex, digestOf, parseDigest } from '@isula-build/shared/oci/digest.js'
import {
  type JsonObject,
  objectOf,
  optional,
  sizeOf,
  stringMapOf,
  stringOf,
} from '@isula-build/shared/oci/json-document.js'
import type { Platform } from '@isula-build/shared/oci/platform.js'
import { type ArchiveIndex, findMember, type Member, readMember } from './archive-index.js'

/** Decodes a descriptor (OCI image spec, descriptor.md). Fails with ISB_ARCHIVE_INVALID. */
export function decodeDescriptor(value: unknown, what: string): Descriptor {
  const json = objectOf(value, what)
  const written = optional(json, 'digest', stringOf)
  const digest = parseDigest(written)
  if (digest === undefined) {
    const shown = JSON.stringify((written ?? '').slice(0, 100))
    throw new BuilderError(
      'ISB_ARCHIVE_INVALID',
      `digest ${shown} of ${what} is not a lower-case sha256 digest`,
    )
  }
  const size = optional(json, 'size', sizeOf)
  if (size === undefined) throw new BuilderError('ISB_ARCHIVE_INVALID', `${what} has no size`)
  const annotations = optional(json, 'annotations', stringMapOf)
  const platform = optional(json, 'platform', decodePlatform)
  return {
    mediaType: optional(json, 'mediaType', stringOf) ?? '',
    digest,
    size,
    ...(annotations === undefined ? {} : { annotations }),
    ...(platform === undefined ? {} : { platform }),
  }
}

/** The blob's place in the layout. Fails with ISB_ARCHIVE_INVALID when it is absent or of another size. */
export function findBlob(index: ArchiveIndex, descriptor: Descriptor, what: string): Member {
  const member = findMember(index, `blobs/sha256/${digestHex(descriptor.digest)}`)
  if (member === undefined) {
    throw new BuilderError('ISB_ARCHIVE_INVALID', `${what} ${descriptor.digest} is not in the archive`)
  }
  if (member.size !== descriptor.size) {
    throw new BuilderError(
      'ISB_DIGEST_MISMATCH',
      `${what} ${descriptor.digest} has ${member.size} bytes, its descriptor says ${descriptor.size}`,
    )
  }
  return member
}

/** A small blob, checked against its digest. */
export async function readBlob(
  index: ArchiveIndex,
  descriptor: Descriptor,
  { what, limit }: { readonly what: string; readonly limit: number },
): Promise<Buffer> {
  const bytes = await readMember(findBlob(index, descriptor, what), limit)
  const actual = digestOf(bytes)
  if (actual !== descriptor.digest) {
    throw new BuilderError('ISB_DIGEST_MISMATCH', `${what} ${descriptor.digest} has the digest ${actual}`)
  }
  return bytes
}

function decodePlatform(value: unknown, what: string): Platform {
  const json: JsonObject = objectOf(value, what)
  const variant = optional(json, 'variant', stringOf)
  return {
    os: optional(json, 'os', stringOf) ?? '',
    architecture: optional(json, 'architecture', stringOf) ?? '',
    ...(variant === undefined || variant === '' ? {} : { variant }),
  }
}
