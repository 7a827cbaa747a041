/**
 * The catalogue of everything that can go wrong for a user. The only place with numbers.
 * Every code has a heading in docs/errors.md.
 */

/** Canonical gRPC status names (https://grpc.io/docs/guides/status-codes/). */
export type GrpcStatus =
  | 'CANCELLED'
  | 'INVALID_ARGUMENT'
  | 'NOT_FOUND'
  | 'ALREADY_EXISTS'
  | 'PERMISSION_DENIED'
  | 'RESOURCE_EXHAUSTED'
  | 'FAILED_PRECONDITION'
  | 'UNIMPLEMENTED'
  | 'INTERNAL'
  | 'UNAVAILABLE'
  | 'DATA_LOSS'
  | 'UNAUTHENTICATED'

export interface CodeEntry {
  readonly grpc: GrpcStatus
  /** Exit code of the client; a failed RUN step overrides it with the step's own. */
  readonly exit: number
  readonly hint?: string
}

export const codes = {
  ISB_DOCKERFILE_SYNTAX: { grpc: 'INVALID_ARGUMENT', exit: 1, hint: 'Fix the marked token.' },
  ISB_UNKNOWN_STAGE: { grpc: 'INVALID_ARGUMENT', exit: 1 },
  ISB_UNKNOWN_INSTRUCTION: { grpc: 'INVALID_ARGUMENT', exit: 1 },
  ISB_UNKNOWN_FLAG: { grpc: 'INVALID_ARGUMENT', exit: 1 },
  ISB_CONTEXT_NOT_FOUND: { grpc: 'NOT_FOUND', exit: 1 },
  ISB_CONTEXT_INVALID: { grpc: 'INVALID_ARGUMENT', exit: 1 },
  ISB_COPY_FAILED: { grpc: 'FAILED_PRECONDITION', exit: 1 },
  ISB_CONTEXT_CHANGED: {
    grpc: 'FAILED_PRECONDITION',
    exit: 1,
    hint: 'Do not write to the build context while it is being built.',
  },
  ISB_STEP_FAILED: { grpc: 'FAILED_PRECONDITION', exit: 1 },
  ISB_DOWNLOAD_FAILED: { grpc: 'UNAVAILABLE', exit: 1 },
  ISB_REFERENCE_INVALID: {
    grpc: 'INVALID_ARGUMENT',
    exit: 1,
    hint: 'Expected `[registry/]name[:tag]`.',
  },
  ISB_ARGUMENT_INVALID: { grpc: 'INVALID_ARGUMENT', exit: 1 },
  ISB_PLATFORM_UNSUPPORTED: { grpc: 'INVALID_ARGUMENT', exit: 1 },
  ISB_IMAGE_NOT_FOUND: {
    grpc: 'NOT_FOUND',
    exit: 1,
    hint: '`isula-build ctr-img images` lists local images.',
  },
  ISB_IMAGE_IN_USE: { grpc: 'FAILED_PRECONDITION', exit: 1 },
  ISB_IMAGE_DAMAGED: {
    grpc: 'DATA_LOSS',
    exit: 1,
    hint: 'Load, pull or build the image again; that replaces the damaged layer.',
  },
  ISB_ALREADY_EXISTS: { grpc: 'ALREADY_EXISTS', exit: 1 },
  ISB_BUILD_EXISTS: { grpc: 'ALREADY_EXISTS', exit: 1 },
  ISB_TOO_MANY_BUILDS: {
    grpc: 'RESOURCE_EXHAUSTED',
    exit: 1,
    hint: 'Wait until a running build has finished.',
  },
  ISB_DIGEST_MISMATCH: {
    grpc: 'DATA_LOSS',
    exit: 1,
    hint: 'The content was damaged in transit; fetch it again.',
  },
  ISB_ARCHIVE_INVALID: { grpc: 'INVALID_ARGUMENT', exit: 1 },
  ISB_LIMIT_EXCEEDED: { grpc: 'RESOURCE_EXHAUSTED', exit: 1 },
  ISB_NO_SPACE: {
    grpc: 'RESOURCE_EXHAUSTED',
    exit: 1,
    hint: '`isula-build ctr-img rm -p` removes images without a name.',
  },
  ISB_PERMISSION_DENIED: { grpc: 'PERMISSION_DENIED', exit: 1 },
  ISB_PATH_NOT_FOUND: { grpc: 'NOT_FOUND', exit: 1 },
  ISB_CONFIG_INVALID: { grpc: 'INVALID_ARGUMENT', exit: 1 },
  ISB_RUNTIME_MISSING: {
    grpc: 'FAILED_PRECONDITION',
    exit: 1,
    hint: 'Install runc, set `runtime` in configuration.toml, or build with `--isolation chroot`.',
  },
  ISB_REGISTRY_DENIED: { grpc: 'PERMISSION_DENIED', exit: 1 },
  ISB_MANIFEST_INVALID: { grpc: 'FAILED_PRECONDITION', exit: 1 },
  ISB_POLICY_REJECTED: {
    grpc: 'PERMISSION_DENIED',
    exit: 1,
    hint: 'policy.json decides which images may be used.',
  },
  ISB_REGISTRY_UNAVAILABLE: { grpc: 'UNAVAILABLE', exit: 1 },
  ISB_ENGINE_FAILED: { grpc: 'FAILED_PRECONDITION', exit: 1 },
  ISB_UNSUPPORTED: { grpc: 'UNIMPLEMENTED', exit: 1 },
  ISB_DAEMON_UNREACHABLE: { grpc: 'UNAVAILABLE', exit: 125 },
  ISB_SHUTTING_DOWN: {
    grpc: 'UNAVAILABLE',
    exit: 125,
    hint: 'The daemon is stopping; try again when it is back.',
  },
  ISB_CANCELLED: { grpc: 'CANCELLED', exit: 130 },
  ISB_INTERNAL: {
    grpc: 'INTERNAL',
    exit: 125,
    hint: 'Please report this; details are in the log of isula-builder.',
  },
} as const satisfies Record<string, CodeEntry>

export type ErrorCode = keyof typeof codes

export function codeEntry(code: ErrorCode): CodeEntry {
  return codes[code]
}
