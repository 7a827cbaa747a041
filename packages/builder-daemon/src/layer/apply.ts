import { closeSync, fstatSync, mkdirSync, openSync, readSync, rmSync } from 'node:fs'
import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { DiffId } from '@isula-build/shared/oci/digest.js'
import type { ApplyFileParams, ApplyParams, ApplyResult } from '../ports/layer-worker.js'
import { AT_FDCWD } from '../system/libc.js'
import { O_PATH, openat, renameat2 } from '../system/syscalls.js'
import { createHeadersWriter, inlineFiles } from './headers-file.js'
import { type JobControl, uncontrolled } from './job-control.js'
import { LowersUnknown } from './lowers-unknown.js'
import { openHelpedTar } from './pipe/feed.js'
import { type ByteSource, createTarReader } from './tar/reader.js'
import { unpackEntries } from './unpack-entries.js'
import type { UnpackedTar } from './unpacked-tar.js'
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
  const { fd, range, limit, expectedDigest } = params
  const tar = openHelpedTar({ fd, range, limit, expectedDigest }, control)
  try {
    let result: Omit<ApplyResult, 'diffId'>
    try {
      result = unpack(params, tar, control)
    } catch (error) {
      // Whether these are the right bytes comes first: what they seem to hold matters only then.
      if (expectedDigest !== undefined && isBuilderError(error) && error.code !== 'ISB_CANCELLED') {
        tar.checkStored()
      }
      throw error
    }
    tar.checkStored()
    const diffId = tar.diffId()
    verify(diffId, params.expectedDiffId)
    return { ...result, diffId }
  } finally {
    tar.close()
  }
}

function unpack(params: ApplyParams, tar: UnpackedTar, control: JobControl): Omit<ApplyResult, 'diffId'> {
  const replacedDirectory = `${params.headersFile}.replaced`
  const paths = new Set<string>()
  let repeats = false
  let tarSize = 0
  const source: ByteSource = {
    read(target, offset, length) {
      const count = tar.read(target, offset, length)
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
        const { compression } = tar
        return { tarSize, entries, usedParents: upper.usedParents, repeats, compression }
      } finally {
        upper.close()
        replaced.close()
      }
    } finally {
      headers.close()
    }
  } finally {
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
