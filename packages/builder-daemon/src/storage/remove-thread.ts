import { randomBytes } from 'node:crypto'
import type { Dirent } from 'node:fs'
import { lstatSync, opendirSync, readFileSync, renameSync, rmdirSync, unlinkSync } from 'node:fs'
import { basename, dirname } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { giveWay } from '../system/priority.js'
import type { ThreadRole } from './database-worker.js'
import { diskUse } from './disk-use.js'
import { failureCode } from './failure.js'
import { encodeFailure, type ThreadRequest } from './thread-messages.js'

/** Longer paths are moved up before they reach PATH_MAX (4096). */
const longPath = 2048

function below(directory: Buffer, name: Buffer): Buffer {
  return Buffer.concat([directory, Buffer.from('/'), name])
}

/** Entries are names in bytes; a layer holds whatever an image or a RUN put there. */
function entries(directory: Buffer): { read(): Dirent<Buffer> | null; close(): void } {
  const opened = opendirSync(directory as unknown as string, {
    encoding: 'buffer' as BufferEncoding,
    bufferSize: 256,
  })
  return {
    read: () => opened.readSync() as unknown as Dirent<Buffer> | null,
    close: () => opened.closeSync(),
  }
}

/** Mount points at or below `path` in this mount namespace; removing through one would reach what is not ours. */
function mountsBelow(path: string): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) =>
      (line.split(' ')[4] ?? '').replace(/\\([0-7]{3})/g, (_, octal) =>
        String.fromCharCode(parseInt(octal, 8)),
      ),
    )
    .filter((point) => point === path || point.startsWith(`${path}/`))
}

/**
 * Removes a directory tree of any depth. Directories that lie deep are moved beside the top one first,
 * so that neither the stack nor PATH_MAX is a limit. Symbolic links are never followed. Ends early, with
 * an error, once number 0 of `stop` is set.
 */
export function removeTree(top: string, stop: Int32Array = new Int32Array(1)): void {
  const inside = mountsBelow(top)
  if (inside.length > 0) {
    throw new BuilderError('ISB_INTERNAL', `${top} is not removed: ${inside[0]} is mounted inside it`)
  }
  if (!isDirectory(Buffer.from(top))) {
    unlinkIfThere(Buffer.from(top))
    return
  }
  const parent = Buffer.from(dirname(top))
  const queue: Buffer[] = [Buffer.from(top)]

  const emptyDirectory = (directory: Buffer): void => {
    const opened = entries(directory)
    try {
      for (let entry = opened.read(); entry !== null; entry = opened.read()) {
        if (Atomics.load(stop, 0) !== 0) throw new Error(`${top} is left for the next start`)
        const path = below(directory, entry.name)
        if (!entry.isDirectory()) unlinkIfThere(path)
        else if (path.length < longPath) removeDirectory(path)
        else {
          const near = below(parent, Buffer.from(`${basename(top)}-${randomBytes(8).toString('hex')}`))
          renameSync(path, near)
          queue.push(near)
        }
      }
    } finally {
      opened.close()
    }
  }

  const removeDirectory = (directory: Buffer): void => {
    for (;;) {
      emptyDirectory(directory)
      try {
        rmdirSync(directory)
        return
      } catch (error) {
        // Entries may be passed over while a directory shrinks under the reader.
        if (failureCode(error) === 'ENOENT') return
        if (failureCode(error) !== 'ENOTEMPTY') throw error
      }
    }
  }

  for (let directory = queue.pop(); directory !== undefined; directory = queue.pop())
    removeDirectory(directory)
}

function isDirectory(path: Buffer): boolean {
  return lstatSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false
}

function unlinkIfThere(path: Buffer): void {
  try {
    unlinkSync(path)
  } catch (error) {
    if (failureCode(error) !== 'ENOENT') throw error
  }
}

/** Nice value: builds go first, yet the trash of a machine that is never idle still goes. */
const priority = 15

/** Empties the trash, one entry per request (`remove`), and measures trees (`measure`). */
export function createRemoveThread(trash: string, stop: Int32Array): ThreadRole {
  giveWay(priority)
  const perform = ({ name, params }: ThreadRequest): unknown =>
    name === 'measure' ? diskUse(String(params), stop) : removeTree(`${trash}/${String(params)}`, stop)
  return {
    serve(requests, reply) {
      for (const request of requests) {
        try {
          reply({ id: request.id, ok: true, result: perform(request) })
        } catch (error) {
          reply({ id: request.id, ok: false, failure: encodeFailure(error) })
        }
      }
    },
    close() {},
  }
}
