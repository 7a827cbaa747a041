import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { ErrorCode } from '@isula-build/shared/errors/codes.js'

/** Refusals that have no errno. */
export type RefusalCode =
  | 'NOT_FILE'
  | 'NOT_DIRECTORY'
  | 'KERNEL_FILE'
  | 'USER_FILE_SYSTEM'
  | 'REPLACED'
  | 'OTHER_DIRECTORY'
  | 'OTHER_NAMESPACE'

export class RefusalError extends Error {
  constructor(readonly code: RefusalCode) {
    super(code)
  }
}

const meanings: Readonly<Record<string, readonly [ErrorCode, string]>> = {
  NOT_FILE: ['ISB_ARGUMENT_INVALID', 'is not a regular file'],
  NOT_DIRECTORY: ['ISB_ARGUMENT_INVALID', 'is not a directory'],
  KERNEL_FILE: ['ISB_PERMISSION_DENIED', 'is on a file system of the kernel, not a file of its own'],
  USER_FILE_SYSTEM: ['ISB_UNSUPPORTED', 'is on a FUSE file system, to which the daemon does not write'],
  REPLACED: ['ISB_ARGUMENT_INVALID', 'was replaced by something else meanwhile'],
  OTHER_DIRECTORY: ['ISB_CONTEXT_INVALID', 'the daemon sees other files there than its client'],
  OTHER_NAMESPACE: ['ISB_CONTEXT_INVALID', 'the daemon sees other files there than its client'],
  EACCES: ['ISB_PERMISSION_DENIED', 'permission denied'],
  EPERM: ['ISB_PERMISSION_DENIED', 'operation not permitted'],
  EROFS: ['ISB_PERMISSION_DENIED', 'read-only file system'],
  ETXTBSY: ['ISB_PERMISSION_DENIED', 'is being executed'],
  ENOENT: ['ISB_PATH_NOT_FOUND', 'no such file or directory'],
  ENOTDIR: ['ISB_PATH_NOT_FOUND', 'a component is not a directory'],
  EEXIST: ['ISB_ALREADY_EXISTS', 'already exists'],
  EISDIR: ['ISB_ARGUMENT_INVALID', 'is a directory'],
  ELOOP: ['ISB_ARGUMENT_INVALID', 'too many symbolic links, or one where none may be'],
  ENAMETOOLONG: ['ISB_ARGUMENT_INVALID', 'the name is too long'],
  EINVAL: ['ISB_ARGUMENT_INVALID', 'the file system refuses this name'],
  ENOSPC: ['ISB_NO_SPACE', 'no space left on the device'],
  EDQUOT: ['ISB_NO_SPACE', 'disk quota exceeded'],
}

const elsewhere =
  'Client and daemon have different mount namespaces or roots; use standard input or output (`-`).'

const hints: Readonly<Record<string, string>> = {
  USER_FILE_SYSTEM: 'Write to a local directory, or to standard output.',
  OTHER_DIRECTORY: elsewhere,
  OTHER_NAMESPACE: elsewhere,
}

/** A failed attempt at a path of the caller's as the error he sees; `code` is an errno's name or a refusal's. */
export function refusal(code: string, path: string, cause?: unknown): BuilderError {
  const [errorCode, reason] =
    meanings[code] ?? (['ISB_PERMISSION_DENIED', `cannot be opened: ${code}`] as const)
  const hint = hints[code]
  return new BuilderError(errorCode, `${path}: ${reason}`, {
    ...(hint === undefined ? {} : { hint }),
    cause,
  })
}

/** The name of the errno, or of the refusal; other errors are no answer to a caller and are thrown. */
export function codeOf(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? error.code : undefined
  if (typeof code === 'string' && /^[A-Z][A-Z0-9_]*$/.test(code) && !code.startsWith('ERR_')) return code
  throw error
}
