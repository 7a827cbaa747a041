import type { ErrorCode } from '@isula-build/shared/errors/codes.js'

/**
 * What a call was about, as far as its record shows it: never the value of a build argument, of the
 * environment, of a secret or of a header. What the caller wrote is shortened and freed of credentials by
 * the log.
 */
export interface AuditFacts {
  /** ID of the build. */
  readonly build?: string
  /** References as the caller wrote them. */
  readonly images?: readonly string[]
  /** IDs of the images that were stored, IDs and names that were removed. */
  readonly results?: readonly string[]
  readonly registry?: string
  /** Capabilities asked for beyond the usual ones. */
  readonly caps?: readonly string[]
  readonly network?: string
  readonly isolation?: string
}

/** One call that has ended, or was refused. */
export interface AuditEntry extends AuditFacts {
  readonly uid: number
  readonly gid: number
  readonly pid: number
  /** The program of `pid` when it connected; undefined when it was gone already. */
  readonly exe: string | undefined
  /** Number of the connection since the daemon started. */
  readonly connection: number
  /** E.g. `isula.builder.v1.Builder`. */
  readonly service: string
  readonly method: string
  readonly outcome: 'ok' | ErrorCode
  /** Duration, milliseconds. */
  readonly ms: number
}

export interface AuditLog {
  /** Never fails and never waits: what goes wrong later is told by the log of the daemon. */
  write(entry: AuditEntry): void
}
