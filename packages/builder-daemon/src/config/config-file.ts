import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

/** Configuration files are read whole; anything larger is a mistake. Bytes. */
export const configFileLimit = 1024 * 1024

/**
 * Reads a configuration file: regular, not empty, at most 1 MiB. `undefined` when it does not exist.
 * Fails with ISB_CONFIG_INVALID naming the file.
 */
export function readConfigFile(path: string): string | undefined {
  let fd: number
  try {
    // A FIFO at this path must not block the start.
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw new BuilderError('ISB_CONFIG_INVALID', `cannot open ${path}: ${(error as Error).message}`, {
      cause: error,
    })
  }
  try {
    const stat = fstatSync(fd)
    if (!stat.isFile()) throw invalid(path, 'is not a regular file')
    if (stat.size === 0) throw invalid(path, 'is empty')
    if (stat.size > configFileLimit) throw invalid(path, `is ${stat.size} bytes, the limit is 1 MiB`)
    const buffer = Buffer.alloc(stat.size)
    const read = readSync(fd, buffer, 0, stat.size, 0)
    return buffer.toString('utf8', 0, read)
  } finally {
    closeSync(fd)
  }
}

function invalid(path: string, reason: string): BuilderError {
  return new BuilderError('ISB_CONFIG_INVALID', `${path} ${reason}`)
}
