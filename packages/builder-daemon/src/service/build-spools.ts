import { randomBytes } from 'node:crypto'
import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'

export interface BuildSpools {
  readonly directory: string
  /** Passes events on; while somebody watches, the files stay. */
  watch<T>(events: AsyncIterable<T>): AsyncIterable<T>
  /** The build writes no more. */
  ended(): void
}

/** A build that nobody has watched yet keeps its output that long. Milliseconds. */
const grace = 60_000

/** Output files of one build: they go when the build has ended and its last watcher has left. */
export function createSpools(root: string): BuildSpools {
  const directory = join(root, randomBytes(8).toString('hex'))
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  let watchers = 0
  let watched = false
  let over = false
  const remove = (): void => rmSync(directory, { recursive: true, force: true })
  const settle = (): void => {
    if (over && watched && watchers === 0) remove()
  }
  return {
    directory,
    async *watch(events) {
      watchers++
      watched = true
      try {
        yield* events
      } finally {
        watchers--
        settle()
      }
    },
    ended() {
      over = true
      settle()
      if (!watched) setTimeout(remove, grace).unref()
    },
  }
}
