import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

/**
 * The directory of a separated save, reached with the caller's rights. Names are single components. Every
 * descriptor is the receiver's to close.
 */
export interface ArchiveDirectory {
  /** Absolute, for messages. */
  readonly path: string
  /** A new regular file for writing; fails with ISB_ALREADY_EXISTS when the name is taken. */
  create(name: string): Promise<number>
  /** A regular file for reading; fails with ISB_PATH_NOT_FOUND. */
  openRead(name: string): Promise<number>
  /** Removes a file made by `create`; absent is fine. */
  remove(name: string): Promise<void>
}

/** Fails with ISB_ARCHIVE_INVALID for anything but one plain component. */
export function checkFileName(name: string, what: string): string {
  const plain = name !== '' && name !== '.' && name !== '..' && !/[/\0]/.test(name)
  if (plain && Buffer.byteLength(name) <= 255) return name
  throw new BuilderError(
    'ISB_ARCHIVE_INVALID',
    `${what} ${JSON.stringify(name.slice(0, 300))} is not a file name`,
  )
}
