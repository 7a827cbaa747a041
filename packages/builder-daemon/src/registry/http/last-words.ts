import type { Socket } from 'node:net'

type Done = (error?: Error | null) => void

/** Milliseconds in which what has arrived is surely read. */
const moment = 1000

/**
 * A server that has said all it wants to say may close while we still send; then writing fails, and Node ends the socket
 * before it has read the answer that waits in it. Here the failure of a write shows when the reading side has ended, too.
 */
export function hearLastWords<T extends Socket>(socket: T): T {
  let holding = false
  const held = (done: Done): Done => {
    return (error) => {
      if (error === null || error === undefined || holding) return done(error)
      holding = true
      const tell = () => {
        clearTimeout(timer)
        socket.off('end', tell)
        socket.off('close', tell)
        done(error)
      }
      const timer = setTimeout(tell, moment)
      socket.once('end', tell)
      socket.once('close', tell)
    }
  }
  const { _write: write, _writev: writev } = socket
  socket._write = (chunk, encoding, done) => write.call(socket, chunk, encoding, held(done))
  if (writev) socket._writev = (chunks, done) => writev.call(socket, chunks, held(done))
  return socket
}
