import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Descriptor } from '@isula-build/shared/oci/descriptor.js'
import { digestHex, digestOf } from '@isula-build/shared/oci/digest.js'
import { type ArchiveIndex, findMember, type Member, readMember } from './archive-index.js'

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
