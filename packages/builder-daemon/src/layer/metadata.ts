import { readFileSync } from 'node:fs'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import { fremovexattr, fsetxattr, lsetxattr, pathBelow } from '../system/extended-attributes.js'
import { AT_EMPTY_PATH, fchmod, fchmodat, fchownat, utimensat } from '../system/syscalls.js'
import { hasErrno } from '../system/system-error.js'
import { isLocalAttribute } from './overlay-form.js'
import type { ExtendedAttribute } from './tar/entry.js'
import { attributesOf } from './walk.js'

/** Owner, permissions, time and attributes of something to be made. */
export interface Metadata {
  readonly mode: number
  readonly uid: number
  readonly gid: number
  readonly mtimeNs: bigint
  readonly xattrs: readonly ExtendedAttribute[]
}

let knownUmask: number | undefined

/** Of the process: a thread can neither set it nor ask for it but here. */
export function umask(): number {
  if (knownUmask === undefined) {
    const match = /^Umask:\s*([0-7]+)$/m.exec(readFileSync('/proc/self/status', 'latin1'))
    knownUmask = Number.parseInt(match?.[1] ?? '0777', 8)
  }
  return knownUmask
}

export interface DescribeOptions {
  /** For messages. */
  readonly path: string
  /** The entry was just made with this mode (less the umask) and belongs to root: that need not be said again. */
  readonly fresh: boolean
}

/** Owner, mode and attributes of an open file or directory, not its time. */
export function describe(
  fd: number,
  metadata: Omit<Metadata, 'mtimeNs'>,
  { path, fresh }: DescribeOptions,
): void {
  const { uid, gid, mode } = metadata
  // chown clears setuid and capabilities, so it comes first.
  if (!fresh || uid !== 0 || gid !== 0) fchownat(fd, '', uid, gid, AT_EMPTY_PATH)
  if (!fresh || (mode & (umask() | 0o7000)) !== 0) fchmod(fd, mode)
  for (const { name, value } of metadata.xattrs) setAttribute(name, path, () => fsetxattr(fd, name, value))
}

/** The same with the time for what must not be opened: links, devices, FIFOs. */
export function describeNode(
  dirfd: number,
  name: string,
  metadata: Metadata,
  options: DescribeOptions & { readonly isLink: boolean },
): void {
  const { uid, gid } = metadata
  if (!options.fresh || uid !== 0 || gid !== 0) fchownat(dirfd, name, uid, gid)
  if (!options.isLink) fchmodat(dirfd, name, metadata.mode)
  const path = pathBelow(dirfd, name)
  for (const one of metadata.xattrs) {
    setAttribute(one.name, options.path, () => lsetxattr(path, one.name, one.value))
  }
  utimensat(dirfd, name, undefined, metadata.mtimeNs)
}

/** Removes all attributes but overlayfs's own. */
export function dropAttributes(fd: number): void {
  for (const { name } of attributesOf(fd)) {
    if (!isLocalAttribute(name)) fremovexattr(fd, name)
  }
}

function setAttribute(name: string, path: string, set: () => void): void {
  if (isLocalAttribute(name)) return
  try {
    set()
  } catch (cause) {
    // As docker and containerd: what this file system or file type cannot have is left out, but a
    // program without its capabilities would be a different one.
    const capability = name === 'security.capability'
    if (!capability && hasErrno(cause, 'ENOTSUP')) return
    if (name.startsWith('user.') && hasErrno(cause, 'EPERM')) return
    throw new BuilderError(
      'ISB_ARCHIVE_INVALID',
      `cannot set the extended attribute "${textOfBytes(name)}" of "/${textOfBytes(path)}"`,
      { cause },
    )
  }
}
