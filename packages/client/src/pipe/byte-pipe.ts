import { createConnection, type Socket } from 'node:net'
import { nativeHandles, pipeOverHandle } from './native-pipe.js'

/** The end of a unix socket or pipe that this process writes to, and perhaps reads from. */
export interface BytePipe {
  /** Bytes handed over that the system has not taken yet. */
  readonly waiting: number
  /** The bytes leave together, after those before them. They are not to be changed until `waiting` is 0. */
  write(parts: readonly Uint8Array[]): void
  /** Closes once everything written has left. Nothing is heard of it afterwards. */
  end(): void
  /** Closes at once. Nothing is heard of it afterwards. */
  destroy(): void
}

/** What a pipe tells, never from within a call of its methods. */
export interface PipeEvents {
  data(bytes: Buffer): void
  /** Nothing waits any more that did. */
  drained(): void
  /** The other side ended it, or it broke: then with an `errno` name as `code`. Comes once, last. */
  closed(error: NodeJS.ErrnoException | undefined): void
}

/** A connection to the socket at `path`. What is written before it stands leaves then. */
export function connectPipe(path: string, events: PipeEvents): BytePipe {
  const handles = nativeHandles()
  return handles === undefined
    ? pipeOverSocket(createConnection(path), events)
    : pipeOverHandle(handles, { path }, events)
}

/** The same with what Node.js documents, which costs a third of a short command's time to load. */
export function pipeOverSocket(socket: Socket, events: PipeEvents): BytePipe {
  let failure: NodeJS.ErrnoException | undefined
  let isOver = false
  socket.on('data', (bytes: Buffer) => events.data(bytes))
  socket.on('drain', () => events.drained())
  socket.on('error', (error) => {
    failure ??= error
  })
  socket.on('close', () => {
    if (!isOver) events.closed(failure)
    isOver = true
  })
  return {
    get waiting() {
      return socket.writableLength
    },
    write(parts) {
      socket.cork()
      for (const part of parts) socket.write(part)
      socket.uncork()
    },
    end() {
      isOver = true
      socket.destroySoon()
    },
    destroy() {
      isOver = true
      socket.destroy()
    },
  }
}
