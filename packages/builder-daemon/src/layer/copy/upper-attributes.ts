import { fsetxattr, lsetxattr } from '../../system/extended-attributes.js'
import { hasErrno } from '../../system/system-error.js'
import type { Metadata } from './destination.js'

const CAPABILITY = 'security.capability'

export function setXattrs(fd: number, metadata: Metadata): Metadata {
  return keepXattrs(metadata, (name, value) => fsetxattr(fd, name, value))
}

/** What the file system refuses to keep is left out, as BuildKit does. */
export function keepXattrs(metadata: Metadata, set: (name: string, value: Buffer) => void): Metadata {
  if (metadata.xattrs.length === 0) return metadata
  const xattrs = metadata.xattrs.filter(([name, value]) => {
    try {
      set(name, Buffer.from(value, 'latin1'))
      return true
    } catch (error) {
      if (hasErrno(error, 'ENOTSUP', 'EPERM')) return false
      throw error
    }
  })
  const { mode, uid, gid, mtimeNs } = metadata
  return { mode, uid, gid, mtimeNs, xattrs }
}

/** Writing to a file and changing its owner take its capabilities away. */
export function restoreCapability(path: string, { xattrs }: Metadata): void {
  const capability = xattrs.find(([name]) => name === CAPABILITY)
  if (capability !== undefined) lsetxattr(path, CAPABILITY, Buffer.from(capability[1], 'latin1'))
}
