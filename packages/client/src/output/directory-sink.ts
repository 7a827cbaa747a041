import { randomBytes } from 'node:crypto'
import { mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { TarError } from '../build/tar-member.js'
import { fileError } from '../file-error.js'
import { warnLine } from '../terminal.js'
import type { OutputSink } from './output-sink.js'
import { createDirectoryUnpacker, type DirectoryUnpacker } from './unpack-directory.js'

/** The files of an image, put into a directory that is made or filled. */
export function filesSink(directory: string): OutputSink {
  attempt(directory, () => mkdirSync(directory, { recursive: true }))
  const unpacker = open(directory)
  return {
    place: `local:${directory}`,
    write: async (data) => unpack(() => unpacker.write(data)),
    async finish() {
      unpack(unpacker.finish)
      unpacker.close()
    },
    abort: unpacker.close,
  }
}

/** An OCI layout that is there as a whole or not at all. */
export function layoutSink(directory: string): OutputSink {
  const temporary = join(dirname(directory), `.${basename(directory)}.${randomBytes(6).toString('hex')}.tmp`)
  attempt(temporary, () => mkdirSync(temporary, { mode: 0o755 }))
  const unpacker = open(temporary)
  return {
    place: `oci-dir:${directory}`,
    write: async (data) => unpack(() => unpacker.write(data)),
    async finish() {
      unpack(unpacker.finish)
      unpacker.close()
      // rename(2) replaces a directory that is empty, and no other.
      attempt(directory, () => renameSync(temporary, directory))
    },
    abort() {
      unpacker.close()
      rmSync(temporary, { recursive: true, force: true })
    },
  }
}

/** Fails before anything is built when a layout could not be put there. */
export function checkLayoutDirectory(directory: string): void {
  try {
    if (readdirSync(directory).length === 0) return
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
    throw fileError(error, directory)
  }
  throw new BuilderError('ISB_ALREADY_EXISTS', `output directory "${directory}" exists and is not empty`)
}

function open(directory: string): DirectoryUnpacker {
  return createDirectoryUnpacker(directory, {
    owners: process.geteuid?.() === 0,
    onOmitted: (what) => warnLine(`[Warning] left out of ${directory}: ${what}`),
  })
}

function unpack(work: () => void): void {
  try {
    work()
  } catch (error) {
    if (!(error instanceof TarError)) throw error
    throw new BuilderError(
      'ISB_ARCHIVE_INVALID',
      `the files of the image cannot be unpacked: ${error.message}`,
      {
        cause: error,
      },
    )
  }
}

function attempt(path: string, work: () => void): void {
  try {
    work()
  } catch (error) {
    throw fileError(error, path)
  }
}
