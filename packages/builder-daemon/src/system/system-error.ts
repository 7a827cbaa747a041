import { constants } from 'node:os'

const names = new Map<number, string>(
  Object.entries(constants.errno).map(([name, number]): [number, string] => [number, name]),
)
// Two names share one number on Linux; the first is what manual pages of file systems use.
names.set(constants.errno.EOPNOTSUPP, 'ENOTSUP')
names.set(constants.errno.EAGAIN, 'EAGAIN')

/** `ENOENT` for 2; `E133` for a number this Node.js has no name for. */
export function errnoName(errno: number): string {
  return names.get(errno) ?? `E${errno}`
}

/** A failed system call. `path` is latin1 bytes, as it was given. */
export class SystemError extends Error {
  override readonly name = 'SystemError'
  readonly code: string

  constructor(
    readonly errno: number,
    readonly syscall: string,
    readonly path?: string,
  ) {
    const code = errnoName(errno)
    const shown = path === undefined ? '' : ` "${Buffer.from(path, 'latin1').toString('utf8')}"`
    super(`${code}: ${syscall}${shown}`)
    this.code = code
  }
}

/** True for a SystemError, or a node:fs error, with one of the codes. */
export function hasErrno(error: unknown, ...codes: string[]): boolean {
  if (!(error instanceof Error) || !('code' in error)) return false
  return typeof error.code === 'string' && codes.includes(error.code)
}
