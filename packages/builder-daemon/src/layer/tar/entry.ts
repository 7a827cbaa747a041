/** What a tar entry can be in a layer. Sockets have no type in tar. */
export type TarEntryType = 'file' | 'directory' | 'symlink' | 'hardlink' | 'character' | 'block' | 'fifo'

/** Extended attribute: the name is latin1 bytes, the value is binary. */
export interface ExtendedAttribute {
  readonly name: string
  readonly value: Buffer
}

/** One entry, in bytes throughout: strings are latin1. */
export interface TarEntry {
  /** The reader gives it as it stands in the archive; the writer wants it without slashes at either end. */
  readonly path: string
  readonly type: TarEntryType
  /** Permission bits with setuid, setgid and sticky. */
  readonly mode: number
  readonly uid: number
  readonly gid: number
  /** Bytes of the file; 0 for everything else. */
  readonly size: number
  readonly mtimeNs: bigint
  /** Target of a symbolic link, or archive path of what a hard link names; '' otherwise. */
  readonly linkName: string
  readonly deviceMajor: number
  readonly deviceMinor: number
  readonly xattrs: readonly ExtendedAttribute[]
}

export const BLOCK = 512

/** Bytes that fill `size` up to a whole block. */
export function padding(size: number): number {
  return (BLOCK - (size % BLOCK)) % BLOCK
}

export const noAttributes: readonly ExtendedAttribute[] = []
