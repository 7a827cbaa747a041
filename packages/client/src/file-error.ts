import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { ErrorCode } from '@isula-build/shared/errors/codes.js'

const codes: Readonly<Record<string, ErrorCode>> = {
  ...{ ENOENT: 'ISB_PATH_NOT_FOUND', ENOTDIR: 'ISB_PATH_NOT_FOUND' },
  ...{ EACCES: 'ISB_PERMISSION_DENIED', EPERM: 'ISB_PERMISSION_DENIED', EROFS: 'ISB_PERMISSION_DENIED' },
  ...{ ENOSPC: 'ISB_NO_SPACE', EDQUOT: 'ISB_NO_SPACE' },
}

/** What went wrong with a file, in the words of Go's errors: `stat /x: no such file or directory`. */
export function fileErrorText(error: unknown, path: string): string {
  const { message, syscall } = error as NodeJS.ErrnoException
  const reason = /^[A-Z0-9]+: ([^,]+)/.exec(message)?.[1] ?? message
  return `${syscall ?? 'open'} ${path}: ${reason}`
}

/** A failed system call as an error of the user's; anything else stays what it is. */
export function fileError(error: unknown, path: string, prefix = ''): unknown {
  const { code, syscall } = error as NodeJS.ErrnoException
  if (syscall === undefined || code === undefined) return error
  return new BuilderError(codes[code] ?? 'ISB_ARGUMENT_INVALID', `${prefix}${fileErrorText(error, path)}`, {
    cause: error,
  })
}
