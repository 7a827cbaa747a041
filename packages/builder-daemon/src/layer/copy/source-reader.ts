import type { FileType } from '../../system/file-stat.js'

export interface ReaderOptions {
  /** Lists come without attributes: a system call less for each entry. */
  readonly bare?: boolean
  /** Called for every entry of a list; what it throws ends the list. */
  readonly check?: () => void
}

/** Which part of a tree a COPY looks at. */
export interface ScanRequest {
  readonly pattern: string
  readonly parents: boolean
  readonly excludes: readonly string[]
  /** Lines of the ignore file. */
  readonly ignore: readonly string[]
}

/** Gets what a scan looks at: the bytes of `createTreeScan`, tree after tree. */
export interface TreeRecorder {
  /** What comes next is below `path`. */
  begin(path: string): void
  /** Valid during the call. */
  bytes(chunk: Buffer): void
}

export interface SourceState {
  /** Over all names and stat records: equal exactly when nothing changed. */
  readonly digest: Buffer
  /** The latest mtime or ctime of all. */
  readonly latestNs: bigint
}

/** A file as `lstat` sees it, with what a layer keeps of it. */
export interface SourceEntry {
  /** Last component, bytes as latin1; '' for the root. */
  readonly name: string
  readonly type: FileType
  /** The twelve permission bits. */
  readonly mode: number
  readonly uid: number
  readonly gid: number
  readonly size: number
  readonly mtimeNs: bigint
  readonly ctimeNs: bigint
  readonly dev: bigint
  readonly ino: bigint
  readonly nlink: number
  /** Equal for two paths exactly when they are links to one inode; undefined for an inode with one name. */
  readonly inode: string | undefined
  readonly rdevMajor: number
  readonly rdevMinor: number
  /** Target of a symbolic link, bytes as latin1. */
  readonly link: string
  /** Sorted by name; values are bytes as latin1. Empty in the lists of a bare reader. */
  readonly xattrs: readonly (readonly [string, string])[]
  /** Its number in what a scan saw (see `seen-sources`); undefined for what was looked at since. */
  readonly seen?: number | undefined
  /** Content digest that the file had when it was seen, where that is known. */
  readonly digest?: Buffer | undefined
}

/** An opened regular file, read once from start to end. */
export interface SourceFile {
  /** Bytes, as of opening. */
  readonly size: number
  readonly mtimeNs: bigint
  /** The file itself, where it can be had. */
  readonly local?: { readonly fd: number; readonly dev: bigint }
  /** Fills `buffer` from its start; 0 at the end of the file. */
  read(buffer: Uint8Array): number
  /** What became of the file; called after the last read. */
  finish(): { readonly size: number; readonly mtimeNs: bigint }
  /** After `finish`: it is the very file that was listed as `entry`, and nothing of it changed since. */
  confirms(entry: SourceEntry): boolean
  close(): void
}

/**
 * Synchronous access to a tree of source files. Paths are rooted byte paths; a symbolic link in any
 * component is never followed, so whoever replaces a directory by a link under our feet gains nothing.
 */
export interface SourceReader {
  /** undefined when the path, or a directory on the way, does not exist. */
  stat(path: string): SourceEntry | undefined
  /** The children of a directory, sorted by name bytes. */
  list(path: string): SourceEntry[]
  /**
   * One digest of all that a COPY would look at; undefined when that cannot be found out or not be relied on.
   * `check` may throw, and is called now and then. A reader that cannot say what it saw leaves `recorder` alone.
   */
  scan(request: ScanRequest, check: () => void, recorder?: TreeRecorder): SourceState | undefined
  /** A hint that these regular files are opened next, in this order. */
  prefetch(paths: readonly string[]): void
  open(path: string): SourceFile
  close(): void
}

/**
 * Attributes that belong into a layer: those of tarsum v1 (`security.capability`, and all but
 * `security.*` and `system.*`), without the bookkeeping of overlayfs.
 */
export function keepsXattr(name: string): boolean {
  if (name === 'security.capability') return true
  if (name.startsWith('trusted.overlay.') || name.startsWith('user.overlay.')) return false
  return !name.startsWith('security.') && !name.startsWith('system.')
}

export function joinPath(directory: string, name: string): string {
  if (name === '') return directory
  return directory === '' ? name : `${directory}/${name}`
}
