import {
  closeSync,
  existsSync,
  fsyncSync,
  openSync,
  renameSync,
  rmSync,
  statfsSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { failureCode } from './failure.js'

/**
 * A file beside the database that is given up when the disk is full, so that removing images, which
 * writes to the database first, still works then. 8 MiB hold the largest transaction many times over.
 */
const reserveBytes = 8 * 1024 * 1024

function reservePath(directory: string): string {
  return join(directory, 'reserve')
}

/** Makes the reserve if it is missing; on a disk with little space there is none until more is free. */
export function makeReserve(directory: string): void {
  if (existsSync(reservePath(directory))) return
  const disk = statfsSync(directory)
  if (disk.bavail * disk.bsize < 3 * reserveBytes) return
  const temporary = `${reservePath(directory)}.tmp`
  const fd = openSync(temporary, 'w', 0o600)
  try {
    const chunk = Buffer.alloc(1024 * 1024)
    for (let written = 0; written < reserveBytes; ) written += writeSync(fd, chunk)
    fsyncSync(fd)
    renameSync(temporary, reservePath(directory))
  } catch (error) {
    rmSync(temporary, { force: true })
    if (!['ENOSPC', 'EDQUOT'].includes(failureCode(error))) throw error
  } finally {
    closeSync(fd)
  }
}

/** Frees the reserve; false when it is already spent. */
export function spendReserve(directory: string): boolean {
  if (!existsSync(reservePath(directory))) return false
  rmSync(reservePath(directory))
  return true
}
