import { accessSync, closeSync, constants, readSync, writeSync } from 'node:fs'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import {
  kill,
  POLLIN,
  POLLOUT,
  type Polled,
  pipe2,
  poll,
  setNonBlocking,
  trySetPipeSize,
} from '../../system/processes.js'
import { SIGKILL, spawnProgram, waitProgram } from '../../system/spawn.js'
import { hasErrno } from '../../system/system-error.js'
import type { JobControl } from '../job-control.js'
import type { ByteSource } from '../tar/reader.js'
import type { Decompressor } from './decompressor.js'

const PIPE_BYTES = 1 << 20
const WAKE_UP = 200

/**
 * Decompression by a program of the host, named by its absolute path: nothing is ever looked up, so
 * no image can slip in its own (CVE-2026-41567). The program gets an empty environment.
 */
export function decompressWith(
  program: string,
  args: readonly string[],
  what: string,
  source: ByteSource,
  control: JobControl,
): Decompressor {
  try {
    accessSync(program, constants.X_OK)
  } catch (cause) {
    throw new BuilderError('ISB_UNSUPPORTED', `cannot read ${what} data: ${program} is not installed`, {
      cause,
    })
  }
  const stdin = pipe2()
  const stdout = pipe2()
  const stderr = pipe2()
  let pid = -1
  try {
    pid = spawnProgram(program, [program, ...args], ['LC_ALL=C'], [stdin.read, stdout.write, stderr.write])
  } finally {
    for (const fd of [stdin.read, stdout.write, stderr.write]) closeSync(fd)
    if (pid < 0) for (const fd of [stdin.write, stdout.read, stderr.read]) closeSync(fd)
  }
  for (const fd of [stdin.write, stdout.read, stderr.read]) setNonBlocking(fd, true)
  trySetPipeSize(stdin.write, PIPE_BYTES)
  trySetPipeSize(stdout.read, PIPE_BYTES)

  const input = Buffer.allocUnsafeSlow(1 << 18)
  let at = 0
  let available = 0
  let feeding = true
  let ended = false
  let closed = false
  let complaint = ''

  function feed(): void {
    if (available === 0) {
      at = 0
      available = source.read(input, 0, input.length)
      if (available === 0) {
        stopFeeding()
        return
      }
    }
    try {
      const count = writeSync(stdin.write, input, at, available)
      at += count
      available -= count
    } catch (error) {
      // The program gave up; its status tells why.
      if (hasErrno(error, 'EPIPE')) stopFeeding()
      else if (!hasErrno(error, 'EAGAIN')) throw error
    }
  }
  function stopFeeding(): void {
    if (feeding) closeSync(stdin.write)
    feeding = false
  }
  function tryRead(fd: number, target: Buffer, offset: number, length: number): number | undefined {
    try {
      return readSync(fd, target, offset, length, null)
    } catch (error) {
      if (hasErrno(error, 'EAGAIN')) return undefined
      throw error
    }
  }
  function listen(): void {
    const text = Buffer.alloc(4096)
    const count = tryRead(stderr.read, text, 0, text.length)
    if (count !== undefined && complaint.length < 4096) complaint += text.toString('utf8', 0, count)
  }
  function finish(): void {
    ended = true
    stopFeeding()
    listen()
    const status = waitProgram(pid)
    pid = -1
    if (status !== 0) {
      const reason = complaint.trim().split('\n').join('; ') || `status ${status}`
      throw new BuilderError('ISB_ARCHIVE_INVALID', `damaged ${what} data: ${reason}`)
    }
  }

  return {
    read(target, offset, length) {
      while (!ended) {
        control.check()
        const waited: Polled[] = [
          { fd: stdout.read, events: POLLIN },
          { fd: stderr.read, events: POLLIN },
        ]
        if (feeding) waited.push({ fd: stdin.write, events: POLLOUT })
        const [out = 0, err = 0, into = 0] = poll(waited, WAKE_UP)
        if ((err & POLLIN) !== 0) listen()
        if (out !== 0) {
          const count = tryRead(stdout.read, target, offset, length)
          if (count !== undefined && count > 0) return count
          if (count === 0) finish()
        } else if (into !== 0) feed()
      }
      return 0
    },
    close() {
      stopFeeding()
      if (pid > 0) {
        kill(pid, SIGKILL)
        waitProgram(pid)
        pid = -1
      }
      ended = true
      if (!closed) for (const fd of [stdout.read, stderr.read]) closeSync(fd)
      closed = true
    },
  }
}
