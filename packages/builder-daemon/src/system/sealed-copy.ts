import { closeSync, fchmodSync, openSync, readSync, writeSync } from 'node:fs'
import { checked, lastErrno, libc } from './libc.js'
import { errnoName, SystemError } from './system-error.js'

const call = {
  memfdCreate: libc('int memfd_create(const void *, uint)'),
  fcntl: libc('int fcntl(int, int, long)'),
}

const MFD_CLOEXEC = 1
const MFD_ALLOW_SEALING = 2
const MFD_EXEC = 16
const F_ADD_SEALS = 1033
/** F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW and F_SEAL_WRITE: for ever, and for everybody. */
const allSeals = 1 | 2 | 4 | 8
const chunkSize = 1 << 20

/** The mode of a copy. */
export const programMode = 0o755

/**
 * Descriptor of a copy of a program in memory whose content nobody can change any more, root included
 * (memfd_create(2), "File sealing"). undefined where the kernel has, or allows, no such files.
 */
export function sealedCopy(path: string, name: string): number | undefined {
  const copy = memoryFile(name)
  if (copy === undefined) return undefined
  try {
    const source = openSync(path, 'r')
    try {
      copyAll(source, copy)
    } finally {
      closeSync(source)
    }
    fchmodSync(copy, programMode)
    checked(call.fcntl(copy, F_ADD_SEALS, allSeals), 'fcntl', path)
    return copy
  } catch (error) {
    closeSync(copy)
    throw error
  }
}

function memoryFile(name: string): number | undefined {
  const text = Buffer.from(`${name}\0`, 'latin1')
  // Kernels before 6.3 know no MFD_EXEC; later ones may want it said.
  for (const flags of [MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC, MFD_CLOEXEC | MFD_ALLOW_SEALING]) {
    const fd = call.memfdCreate(text, flags)
    if (fd >= 0) return fd
    const errno = lastErrno()
    const code = errnoName(errno)
    if (code === 'ENOSYS' || code === 'EPERM' || code === 'EACCES') return undefined
    if (code !== 'EINVAL') throw new SystemError(errno, 'memfd_create', name)
  }
  return undefined
}

function copyAll(source: number, target: number): void {
  const buffer = Buffer.allocUnsafeSlow(chunkSize)
  for (;;) {
    const read = readSync(source, buffer)
    if (read === 0) return
    for (let at = 0; at < read; ) at += writeSync(target, buffer, at, read - at)
  }
}
