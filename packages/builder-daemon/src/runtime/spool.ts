import { type FSWatcher, watch } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'

export interface FollowOptions {
  /** Bytes of the file to skip. */
  readonly from?: number
  /** Ends the iteration at once, without reading on. */
  readonly cancel?: AbortSignal
}

const chunkSize = 64 * 1024
/** Bytes of the first read: most commands say little, and everyone who follows has a buffer. */
const firstRead = 2048

/**
 * The content of a file that somebody appends to, from its beginning. After `finished` is aborted it
 * is read to its end, and the iteration ends. Every follower reads at its own pace and holds one
 * chunk; between writes it sleeps until the kernel tells of a change (inotify(7)).
 */
export async function* followSpool(
  path: string,
  finished: AbortSignal,
  options: FollowOptions = {},
): AsyncGenerator<Uint8Array, void, void> {
  const { cancel } = options
  const change = changeSignal(path, finished, cancel)
  let file: FileHandle | undefined
  try {
    file = await open(path, 'r')
    let position = options.from ?? 0
    let room = firstRead
    while (cancel?.aborted !== true) {
      // Looked at before reading: what was written before the end is then read before the end.
      const last = finished.aborted
      const seen = change.count()
      const chunk = await readAt(file, position, room)
      if (chunk !== undefined) {
        position += chunk.length
        if (chunk.length === room) room = chunkSize
        yield chunk
      } else if (last) return
      else await change.after(seen)
    }
  } finally {
    change.close()
    await file?.close()
  }
}

async function readAt(file: FileHandle, position: number, room: number): Promise<Uint8Array | undefined> {
  const buffer = Buffer.allocUnsafe(room)
  const { bytesRead } = await file.read(buffer, 0, room, position)
  if (bytesRead === 0) return undefined
  // Whoever keeps a few bytes for a while does not keep all the room there was for more.
  return bytesRead < room / 2 ? Buffer.from(buffer.subarray(0, bytesRead)) : buffer.subarray(0, bytesRead)
}

interface ChangeSignal {
  count(): number
  /** Resolves as soon as there was a change since `count()` gave `seen`. */
  after(seen: number): Promise<void>
  close(): void
}

function changeSignal(path: string, ...signals: readonly (AbortSignal | undefined)[]): ChangeSignal {
  let changes = 0
  let wake: (() => void) | undefined
  const changed = (): void => {
    changes += 1
    wake?.()
    wake = undefined
  }
  const watcher: FSWatcher = watch(path, { persistent: true }, changed)
  // A watcher that fails (the file was removed) only wakes the reader, which then sees the end.
  watcher.on('error', changed)
  for (const signal of signals) signal?.addEventListener('abort', changed)
  return {
    count: () => changes,
    async after(seen) {
      while (changes === seen) {
        await new Promise<void>((resolve) => {
          wake = resolve
        })
      }
    },
    close() {
      watcher.close()
      for (const signal of signals) signal?.removeEventListener('abort', changed)
    },
  }
}
