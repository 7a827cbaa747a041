import { arch } from 'node:os'
import koffi from 'koffi'
import { SystemError } from './system-error.js'

/** Synchronous calls, but for `libcLater`: koffi's asynchronous calls lose errno. */
export type NativeArgument = number | bigint | Buffer | null
export type NativeFunction = (...args: NativeArgument[]) => number

/** The current directory instead of a descriptor. */
export const AT_FDCWD = -100

let library: ReturnType<typeof koffi.load> | undefined

/** A C function of libc by its prototype; looked up on the first call, once per thread. */
export function libc(prototype: string): NativeFunction {
  let bound: NativeFunction | undefined
  return (...args) => {
    if (bound === undefined) {
      library ??= koffi.load('libc.so.6')
      bound = library.func(prototype) as NativeFunction
    }
    return bound(...args)
  }
}

/**
 * A C function that one of libuv's threads calls, for what keeps the caller waiting. Nobody learns errno: who needs it
 * makes the same call again, here. Texts are passed as UTF-8.
 */
export function libcLater(prototype: string): (...args: (number | string)[]) => Promise<number> {
  let bound: ReturnType<NonNullable<typeof library>['func']> | undefined
  return async (...args) => {
    if (bound === undefined) {
      library ??= koffi.load('libc.so.6')
      bound = library.func(prototype)
    }
    const { async: start } = bound
    return await new Promise((resolve, reject) => {
      start(...args, (error: Error | null, result: number) => {
        if (error === null) resolve(result)
        else reject(error)
      })
    })
  }
}

/** errno of the call just made: only meaningful in the very next statement. */
export function lastErrno(): number {
  return koffi.errno()
}

/** Returns `result`, or throws the SystemError of the call just made when it is negative. */
export function checked(result: number, syscall: string, path?: string): number {
  if (result < 0) throw new SystemError(koffi.errno(), syscall, path)
  return result
}

const EINTR = 4

/** Like `checked`, but repeats the call while a signal interrupts it. */
export function retried(call: () => number, syscall: string, path?: string): number {
  for (;;) {
    const result = call()
    if (result >= 0) return result
    const errno = koffi.errno()
    if (errno !== EINTR) throw new SystemError(errno, syscall, path)
  }
}

/** Address of a buffer's memory, to be stored in a C structure; the buffer must outlive its use. */
export function addressOf(buffer: Buffer): bigint {
  return koffi.address(buffer)
}

/**
 * System call numbers that differ between architectures (Linux `unistd_64.h` and the generic table,
 * which arm64, riscv64 and loong64 share). Numbers from 424 on are the same everywhere.
 */
export function syscallNumber(x64: number, generic: number): number {
  return arch() === 'x64' ? x64 : generic
}

const PATH_BYTES = 8192
const firstPath = Buffer.allocUnsafeSlow(PATH_BYTES)
const secondPath = Buffer.allocUnsafeSlow(PATH_BYTES)

function encode(buffer: Buffer, path: string, syscall: string): Buffer {
  const length = path.length
  if (length >= PATH_BYTES) throw new SystemError(36, syscall, `${path.slice(0, 64)}...`)
  buffer.write(path, 0, 'latin1')
  buffer[length] = 0
  if (path.includes('\0')) throw new SystemError(22, syscall, path)
  return buffer
}

/** `path` (latin1 bytes) as a C string in memory that the next `cString` call reuses. */
export function cString(path: string, syscall: string): Buffer {
  return encode(firstPath, path, syscall)
}

/** A second C string for calls that take two. */
export function otherCString(path: string, syscall: string): Buffer {
  return encode(secondPath, path, syscall)
}
