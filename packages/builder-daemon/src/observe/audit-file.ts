import { constants, type Stats } from 'node:fs'
import { type FileHandle, lstat, open, stat } from 'node:fs/promises'
import { hasErrno } from '../system/system-error.js'

const { O_APPEND, O_CREAT, O_NOFOLLOW, O_NONBLOCK, O_RDWR } = constants

/** Whole lines, written one after the other to whatever file lies at the path at the time. */
export interface AuditFile {
  /**
   * Appends; one call at a time. After a failure the next call takes up where this one stopped, so it must
   * be given the same lines again.
   */
  append(lines: Buffer): Promise<void>
  close(): Promise<void>
}

interface Opened {
  readonly handle: FileHandle
  readonly dev: number
  readonly ino: number
}

/**
 * A file that was renamed or removed (logrotate) is left for a new one before the next line; one that was
 * truncated in place is just appended to. Links, and anything but a regular file of this user, are refused.
 */
export async function openAuditFile(path: string): Promise<AuditFile> {
  let current = await openForAppending(path)
  /** Bytes of the lines of a failed call that are in the file. */
  let written = 0

  async function follow(lines: Buffer): Promise<void> {
    if (await isAt(path, current)) return
    const next = await openForAppending(path)
    const previous = current
    current = next
    // A line that is half in the old file is written whole into the new one.
    written = written === 0 ? 0 : lines.lastIndexOf('\n', written - 1) + 1
    await previous.handle.close()
  }

  return {
    async append(lines) {
      await follow(lines)
      while (written < lines.length) {
        const { bytesWritten } = await current.handle.write(lines, written, lines.length - written, null)
        written += bytesWritten
      }
      written = 0
    },
    async close() {
      await current.handle.close()
    },
  }
}

async function isAt(path: string, { dev, ino }: Opened): Promise<boolean> {
  try {
    const found = await lstat(path)
    return found.dev === dev && found.ino === ino
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return false
    throw error
  }
}

async function openForAppending(path: string): Promise<Opened> {
  // Without O_NONBLOCK a FIFO at the path would keep a thread waiting for its reader.
  const handle = await open(path, O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0o600)
  try {
    const found = await handle.stat()
    await requireOwn(path, found)
    // Who may read it is the administrator's choice (logrotate's `create`); nobody else writes to it.
    if ((found.mode & 0o022) !== 0) await handle.chmod(found.mode & 0o7755)
    await endLine(handle, found.size)
    return { handle, dev: found.dev, ino: found.ino }
  } catch (error) {
    await handle.close()
    throw error
  }
}

async function requireOwn(path: string, found: Stats): Promise<void> {
  if (!found.isFile()) throw new Error(`${path} is not a regular file`)
  const { uid } = await stat('/proc/self')
  if (found.uid !== uid) throw new Error(`${path} belongs to uid ${found.uid}`)
}

/** A daemon that was killed may have left half a line. */
async function endLine(handle: FileHandle, size: number): Promise<void> {
  if (size === 0) return
  const { buffer, bytesRead } = await handle.read(Buffer.alloc(1), 0, 1, size - 1)
  if (bytesRead === 1 && buffer[0] !== 0x0a) await handle.write('\n')
}
