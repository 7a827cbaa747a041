import { createHash } from 'node:crypto'
import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { type DiffId, type Digest, digestFromHex } from '@isula-build/shared/oci/digest.js'
import { type Compression, decompress, defaultRatio } from './decompress/decompress.js'
import { descriptorSource } from './decompress/descriptor-source.js'
import type { JobControl } from './job-control.js'
import type { StoredTar } from './stored-tar.js'
import type { ByteSource } from './tar/reader.js'

/** The tar, hashed while it is read. */
export interface UnpackedTar extends ByteSource {
  readonly compression: Compression
  /** Of everything; to be asked for once, after `read` gave 0. */
  diffId(): DiffId
  /**
   * Fails with ISB_DIGEST_MISMATCH unless what is stored is what was expected, reading the rest of it. To be asked for
   * once, also when reading failed: what wrong bytes seem to hold matters to nobody.
   */
  checkStored(): void
  close(): void
}

/** Fails as `decompress` does. */
export function openUnpackedTar(stored: StoredTar, control: JobControl): UnpackedTar {
  const checked = checkedSource(descriptorSource(stored.fd, stored.range, control), stored.expectedDigest)
  const unpacked = decompressChecked(checked, stored.limit, control)
  const hash = createHash('sha256')
  return {
    compression: unpacked.compression,
    read(target, offset, length) {
      const count = unpacked.read(target, offset, length)
      if (count > 0) hash.update(target.subarray(offset, offset + count))
      return count
    },
    diffId: () => digestFromHex(hash.digest('hex')) as DiffId,
    checkStored: checked.check,
    close: unpacked.close,
  }
}

function decompressChecked(source: CheckedSource, limit: number, control: JobControl) {
  try {
    return decompress(source, { bytes: limit, ...defaultRatio }, control)
  } catch (error) {
    if (isBuilderError(error) && error.code !== 'ISB_CANCELLED') source.check()
    throw error
  }
}

interface CheckedSource extends ByteSource {
  check(): void
}

function checkedSource(source: ByteSource, expected: Digest | undefined): CheckedSource {
  if (expected === undefined) return { read: source.read, check: () => undefined }
  const hash = createHash('sha256')
  function read(target: Buffer, offset: number, length: number): number {
    const count = source.read(target, offset, length)
    if (count > 0) hash.update(target.subarray(offset, offset + count))
    return count
  }
  return {
    read,
    check() {
      const rest = Buffer.allocUnsafe(1 << 16)
      while (read(rest, 0, rest.length) > 0);
      const digest = digestFromHex(hash.digest('hex'))
      if (digest === expected) return
      throw new BuilderError(
        'ISB_DIGEST_MISMATCH',
        `layer ${expected} in the archive has the digest ${digest}`,
      )
    },
  }
}
