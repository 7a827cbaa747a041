import { closeSync, openSync, writeSync } from 'node:fs'
import { Socket } from 'node:net'
import { pipe2, trySetPipeSize } from '../system/processes.js'

/**
 * One pipe for stdout and stderr, so that their order is the order of the writes; a pipe and not a
 * socket, so that `echo > /dev/stderr` can open it. What arrives is appended to the spool file.
 */
export interface OutputPipe {
  /** For the child; `closeWriter` once it has it. */
  readonly writeFd: number
  closeWriter(): void
  /** Starts copying to the spool; until then the pipe holds what was written. */
  start(): void
  /** Instead of `start`: what the pipe holds, up to 64 KiB, which no spool gets. */
  discard(): Promise<string>
  raiseQuota(bytes: number): void
  /** Resolves at the end of the output; rejects when the spool cannot be written. */
  readonly finished: Promise<void>
  /** Stops waiting for writers that hold the pipe open. */
  abandon(): void
}

const pipeSize = 1024 * 1024

export function openOutputPipe(spool: string, quota: number, onStalled: (bytes: number) => void): OutputPipe {
  const spoolFd = openSync(spool, 'a', 0o600)
  const { read, write } = pipe2()
  trySetPipeSize(write, pipeSize)
  const source = new Socket({ fd: read, readable: true, writable: false })
  source.pause()
  let allowed = quota
  let written = 0
  let stalled = false
  let writerOpen = true
  let collected: Buffer[] | undefined
  let settle: { resolve: () => void; reject: (error: Error) => void } | undefined

  const finished = new Promise<void>((resolve, reject) => {
    settle = { resolve, reject }
  })
  // Whoever waits sees the failure; nobody may wait after a failed start.
  finished.catch(() => undefined)

  const append = (chunk: Buffer): void => {
    if (collected !== undefined) {
      collected.push(chunk)
      return
    }
    try {
      for (let offset = 0; offset < chunk.length; ) offset += writeSync(spoolFd, chunk, offset)
    } catch (error) {
      source.destroy(error instanceof Error ? error : new Error(String(error)))
      return
    }
    written += chunk.length
    if (written < allowed || stalled) return
    stalled = true
    source.pause()
    onStalled(written)
  }

  source.on('data', append)
  source.pause()
  let failure: Error | undefined
  source.on('error', (error) => {
    failure = error
  })
  source.on('close', () => {
    closeSync(spoolFd)
    if (failure === undefined) settle?.resolve()
    else settle?.reject(failure)
  })

  const closeWriter = (): void => {
    if (!writerOpen) return
    writerOpen = false
    closeSync(write)
  }

  return {
    writeFd: write,
    closeWriter,
    start() {
      if (!stalled) source.resume()
    },
    async discard() {
      collected = []
      closeWriter()
      source.resume()
      await finished
      return Buffer.concat(collected).subarray(0, 65536).toString('utf8')
    },
    raiseQuota(bytes) {
      allowed = Math.max(allowed, bytes)
      if (!stalled || written >= allowed) return
      stalled = false
      source.resume()
    },
    finished,
    abandon() {
      closeWriter()
      source.destroy()
    },
  }
}
