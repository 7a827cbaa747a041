import { closeSync } from 'node:fs'
import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import type { IdentifiedLayer, MakeDirectoryParams } from '../ports/layer-worker.js'
import { openMerged } from '../system/detached-overlay.js'
import { AT_FDCWD } from '../system/libc.js'
import { lstatCanonical, openCanonical, parentOf, resolveInRoot } from '../system/rooted.js'
import { AT_EMPTY_PATH, fchownat, O_DIRECTORY, O_RDONLY, openat } from '../system/syscalls.js'
import { hasErrno, SystemError } from '../system/system-error.js'
import { type JobControl, uncontrolled } from './job-control.js'
import { sealJob } from './seal.js'
import { openUpper } from './upper.js'
import { resolveOwner } from './users.js'

/** Bytes of a path that the kernel takes, and that a layer may hold. */
const PATH_MAX = 4096

/**
 * mkdir -p over the layers, into an empty upper: new directories are 0755 root, existing ones keep
 * everything and are in the upper only where a new one lies below them. Links are followed inside the
 * root. A file in the way fails with ISB_STEP_FAILED.
 */
export function makeDirectoryJob(
  params: MakeDirectoryParams,
  control: JobControl = uncontrolled,
): { created: boolean } & IdentifiedLayer {
  if (params.path.includes('\0')) {
    throw new BuilderError('ISB_ARGUMENT_INVALID', 'a path cannot hold a NUL byte')
  }
  if (params.path.length > PATH_MAX) throw tooLong(params.path)
  const found = find(params)
  if (!found.exists) {
    make(params, found.path)
    const owner = ownerOf(params)
    if (owner !== undefined) giveAway(params.upper, owner, found)
  }
  const { upper, fixedTime } = params
  return { created: !found.exists, ...sealJob({ upper, fixedTime, identify: true }, control) }
}

interface Found {
  /** Without links. */
  readonly path: string
  readonly exists: boolean
  /** The part of the path that the lowers have. */
  readonly existing: string
}

function find(params: MakeDirectoryParams): Found {
  const layers = openMerged(params.lowers)
  try {
    const { path, stat } = resolveInRoot(layers.fd, params.path, { followLast: true })
    if (stat !== undefined && stat.type !== 'directory') throw inTheWay(params.path, path)
    return { path, exists: stat !== undefined, existing: existingPart(layers.fd, path) }
  } catch (error) {
    if (error instanceof SystemError && error.code === 'ENOTDIR')
      throw inTheWay(params.path, error.path ?? '')
    if (hasErrno(error, 'ELOOP')) {
      const shown = textOfBytes(params.path)
      throw new BuilderError(
        'ISB_STEP_FAILED',
        `cannot make the directory "${shown}": too many symbolic links`,
        { cause: error },
      )
    }
    if (hasErrno(error, 'ENAMETOOLONG')) throw tooLong(params.path, error)
    throw error
  } finally {
    layers.close()
  }
}

function existingPart(root: number, path: string): string {
  for (let part = path; part !== ''; part = parentOf(part)) {
    if (lstatCanonical(root, part) !== undefined) return part
  }
  return ''
}

type Owner = ReturnType<typeof resolveOwner>

/** As BuildKit has it, a user the image does not know makes directories of root's. */
function ownerOf({ lowers, user }: MakeDirectoryParams): Owner | undefined {
  if (user === undefined || user === '') return undefined
  const layers = openMerged(lowers)
  try {
    return resolveOwner(layers.fd, user)
  } catch (error) {
    if (isBuilderError(error, 'ISB_ARGUMENT_INVALID')) return undefined
    throw error
  } finally {
    layers.close()
  }
}

/** New directories belong to the owner; ones that were there keep theirs. */
function giveAway(upper: string, owner: Owner, { path, existing }: Found): void {
  const root = openat(AT_FDCWD, upper, O_RDONLY | O_DIRECTORY)
  try {
    for (let made = path; made !== existing && made !== ''; made = parentOf(made)) {
      const directory = openCanonical(root, made)
      try {
        fchownat(directory, '', owner.uid, owner.gid, AT_EMPTY_PATH)
      } finally {
        closeSync(directory)
      }
    }
  } finally {
    closeSync(root)
  }
}

function make(params: MakeDirectoryParams, path: string): void {
  const upper = openUpper(params.upper, params.lowers)
  try {
    const now = params.fixedTime === undefined ? undefined : BigInt(params.fixedTime) * 1_000_000_000n
    upper.directory(path, now)
    upper.finish()
  } catch (error) {
    if (hasErrno(error, 'ENAMETOOLONG')) throw tooLong(params.path, error)
    throw error
  } finally {
    upper.close()
  }
}

function inTheWay(wanted: string, path: string): BuilderError {
  const shown = textOfBytes(wanted)
  return new BuilderError(
    'ISB_STEP_FAILED',
    `cannot make the directory "${shown}": "/${textOfBytes(path)}" is no directory`,
  )
}

function tooLong(path: string, cause?: unknown): BuilderError {
  return new BuilderError(
    'ISB_ARGUMENT_INVALID',
    `"${textOfBytes(path).slice(0, 100)}" is too long for a path`,
    { cause },
  )
}
