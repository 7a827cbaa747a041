import { createHash } from 'node:crypto'
import { closeSync, fstatSync, mkdirSync, openSync, readSync, rmSync } from 'node:fs'
import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { type DiffId, type Digest, digestFromHex } from '@isula-build/shared/oci/digest.js'
import type { ApplyFileParams, ApplyParams, ApplyResult } from '../ports/layer-worker.js'
import { AT_FDCWD } from '../system/libc.js'
import { O_PATH, openat, renameat2 } from '../system/syscalls.js'
import { decompress, defaultRatio } from './decompress/decompress.js'
import { descriptorSource } from './decompress/descriptor-source.js'
import { createHeadersWriter, inlineFiles } from './headers-file.js'
import { type JobControl, uncontrolled } from './job-control.js'
import { LowersUnknown } from './lowers-unknown.js'
import { type ByteSource, createTarReader } from './tar/reader.js'
import { unpackEntries } from './unpack-entries.js'
import { openUpper } from './upper.js'

/**
 * Unpacks a layer tar into an empty upper as an overlay changeset. Deletions hide what lower layers
 * have, never what the layer itself has (OCI image spec, layer.md). Fails with ISB_ARCHIVE_INVALID,
 * ISB_LIMIT_EXCEEDED, ISB_DIGEST_MISMATCH, ISB_NO_SPACE; the caller then throws the upper away.
 */
export function applyJob(params: ApplyParams, control: JobControl = uncontrolled): ApplyResult | undefined {
  try {
    return apply(params, control)
  } catch (error) {
    if (error instanceof LowersUnknown) return undefined
    throw error
  }
}

/** Job `applyFile`. */
export function applyFileJob(
  { path, ...params }: ApplyFileParams,
  control: JobControl = uncontrolled,
): ApplyResult | undefined {
  const fd = openSync(path, 'r')
  try {
    return applyJob({ ...params, fd, range: { offset: 0, length: fstatSync(fd).size } }, control)
  } finally {
    closeSync(fd)
  }
}

function apply(params: ApplyParams, control: JobControl): ApplyResult {
  const stored = descriptorSource(params.fd, params.range, control)
  const { expectedDigest } = params
  if (expectedDigest === undefined) return unpack(params, stored, control)
  const checked = checkedSource(stored, expectedDigest)
  let result: ApplyResult
  try {
    result = unpack(params, checked, control)
  } catch (error) {
    // Whether these are the right bytes comes first: what they seem to hold matters only then.
    if (isBuilderError(error) && error.code !== 'ISB_CANCELLED') checked.check()
    throw error
  }
  checked.check()
  return result
}

/** Hashes what is read of `source`; `check` reads the rest and fails with ISB_DIGEST_MISMATCH. */
function checkedSource(source: ByteSource, expected: Digest): ByteSource & { check(): void } {
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

function unpack(params: ApplyParams, stored: ByteSource, control: JobControl): ApplyResult {
  const unpacked = decompress(stored, { bytes: params.limit, ...defaultRatio }, control)
  const replacedDirectory = `${params.headersFile}.replaced`
  const hash = createHash('sha256')
  const paths = new Set<string>()
  let repeats = false
  let tarSize = 0
  const source: ByteSource = {
    read(target, offset, length) {
      const count = unpacked.read(target, offset, length)
      if (count > 0) hash.update(target.subarray(offset, offset + count))
      tarSize += count
      return count
    },
  }
  try {
    const headers = createHeadersWriter(params.headersFile)
    try {
      const replaced = createReplacedFiles(replacedDirectory)
      const upper = openUpper(params.upper, params.lowers, replaced.take)
      try {
        const reader = createTarReader(source, { onStructure: headers.raw })
        const entries = unpackEntries({
          ...{ reader, upper, control, limit: params.limit, deletions: true },
          onFile: (path, size) => replaced.records.set(path, headers.file(path, size)),
          onLoose: headers.raw,
          onPath(path) {
            if (params.findRepeats !== true || repeats) return
            repeats = paths.has(path)
            paths.add(path)
          },
        })
        reader.drain()
        upper.finish()
        headers.finish(entries)
        if (replaced.taken.size > 0) inlineFiles(params.headersFile, replaced.taken, control, copyOut)
        const diffId = digestFromHex(hash.digest('hex')) as DiffId
        verify(diffId, params.expectedDiffId)
        const { compression } = unpacked
        return { diffId, tarSize, entries, usedParents: upper.usedParents, repeats, compression }
      } finally {
        upper.close()
        replaced.close()
      }
    } finally {
      headers.close()
    }
  } finally {
    unpacked.close()
    rmSync(replacedDirectory, { recursive: true, force: true })
  }
}

function verify(diffId: DiffId, expected: DiffId | undefined): void {
  if (expected === undefined || diffId === expected) return
  throw new BuilderError('ISB_DIGEST_MISMATCH', `the layer has diff ID ${diffId}, its image says ${expected}`)
}

/** Files a later entry of the same tar replaced: kept until their bytes are in the headers file. */
interface ReplacedFiles {
  /** Path in the upper → number of its record. */
  readonly records: Map<string, number>
  /** Record → where the bytes are now. */
  readonly taken: Map<number, string>
  take(dirfd: number, name: string, path: string): boolean
  close(): void
}

function createReplacedFiles(directory: string): ReplacedFiles {
  const records = new Map<string, number>()
  const taken = new Map<number, string>()
  let fd = -1
  return {
    records,
    taken,
    take(dirfd, name, path) {
      const record = records.get(path)
      if (record === undefined) return false
      if (fd < 0) {
        mkdirSync(directory, { mode: 0o700 })
        fd = openat(AT_FDCWD, directory, O_PATH)
      }
      renameat2(dirfd, name, fd, String(record))
      records.delete(path)
      taken.set(record, `${directory}/${record}`)
      return true
    },
    close() {
      if (fd >= 0) closeSync(fd)
    },
  }
}

function copyOut(file: string, size: number, raw: (bytes: Buffer) => void): void {
  const fd = openSync(file, 'r')
  try {
    const buffer = Buffer.allocUnsafe(1 << 20)
    for (let left = size; left > 0; ) {
      const count = readSync(fd, buffer, 0, Math.min(left, buffer.length), null)
      if (count === 0) throw new Error('a replaced file became shorter')
      raw(buffer.subarray(0, count))
      left -= count
    }
  } finally {
    closeSync(fd)
  }
}
