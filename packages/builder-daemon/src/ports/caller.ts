/** Who called, from SO_PEERCRED and SO_PEERGROUPS of the accepted socket; never from the message. */
export interface Caller {
  readonly uid: number
  readonly gid: number
  readonly groups: readonly number[]
  readonly pid: number
  /** The caller's mount namespace is ours, so paths mean the same files. */
  readonly sameMountNamespace: boolean
}

/**
 * Opens files with the caller's rights: root callers directly, others through a helper process that
 * is that user. Every descriptor is the receiver's to close. Fails with ISB_PERMISSION_DENIED or
 * ISB_PATH_NOT_FOUND naming the path. Descriptors on procfs, sysfs, cgroupfs and devices are refused,
 * and so is every path of a caller in another mount namespace, where it means another file.
 */
export interface CallerFiles {
  /** A regular file for reading; refuses anything else. */
  openRead(caller: Caller, path: string, signal?: AbortSignal): Promise<OpenedFile>
  /** Creates a file that must not exist, mode 0644 less the caller's... umask 022, owned by the caller. */
  create(caller: Caller, path: string, mode: number, options?: CreateOptions): Promise<OpenedFile>
  /** Like `create`, but replaces an existing regular file (iidfile). */
  replace(caller: Caller, path: string, content: Uint8Array, mode: number): Promise<void>
  /**
   * The same by a new file in its place, of the name `.NAME.new` until it is whole: whoever reads the path, also after
   * a crash, sees all of the old content or all of the new.
   */
  exchange(caller: Caller, path: string, content: Uint8Array, mode: number): Promise<void>
  /** Removes a file this caller could remove, only if it still is the one opened (device and inode). */
  removeCreated(caller: Caller, path: string, file: FileIdentity): Promise<void>
  /** A new directory owned by the caller; its parent exists. Fails with ISB_ALREADY_EXISTS. */
  createDirectory(caller: Caller, path: string, mode: number): Promise<void>
  /** A directory as a build context. */
  openDirectory(caller: Caller, path: string, signal?: AbortSignal): Promise<ContextHandle>
}

export interface CreateOptions {
  readonly signal?: AbortSignal
  /** What the caller sees as the directory of the path; another one is an error. */
  readonly parent?: FileIdentity | undefined
}

/** What tells a file from any other one on this machine. */
export interface FileIdentity {
  readonly dev: bigint
  readonly ino: bigint
}

export interface OpenedFile extends FileIdentity {
  /** A pipe where reading the file itself may wait for a network or a process of the caller's. */
  readonly fd: number
  readonly size: number
}

/**
 * A build context for the layer workers. `direct`: a directory this daemon may read as root, below
 * the descriptor `fd`. `helper`: every look and open goes through the helper on `fd`, a
 * SOCK_SEQPACKET socket owned by this handle alone.
 */
export interface ContextHandle extends AsyncDisposable {
  readonly access: 'direct' | 'helper'
  readonly fd: number
  /** Absolute path, for messages. */
  readonly path: string
  /** Of the directory that was opened. */
  readonly identity: FileIdentity
  /** Whose helper it is; undefined for a directory of this daemon's. */
  readonly helperOf: number | undefined
}
