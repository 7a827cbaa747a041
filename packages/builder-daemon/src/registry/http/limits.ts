/** How patient requests are, and how much at once; times in milliseconds. */
export interface HttpLimits {
  /** Transfers of bodies to and from one registry host at once; a user who has none of them never waits. */
  readonly connections: number
  /** The same for all hosts together. */
  readonly transfers: number
  /** Name look-up, TCP, proxy and TLS together. */
  readonly connect: number
  /** From the end of a request to the end of the answer's head; a second more for every 16 MiB that were sent. */
  readonly head: number
  /** In which a body must bring (or take) at least a KiB, or end. */
  readonly idle: number
  /** A body this long silent no longer counts as one of `connections`, so that others can go on. */
  readonly stalled: number
  /** All attempts of a request and the waits between them. */
  readonly budget: number
  /** The longest wait that is not the registry's wish. */
  readonly longestDelay: number
  /** What is left of a longer Retry-After. */
  readonly longestRetryAfter: number
}

export const defaultLimits: HttpLimits = {
  connections: 6,
  transfers: 32,
  connect: 30_000,
  head: 60_000,
  idle: 60_000,
  stalled: 2_000,
  budget: 600_000,
  longestDelay: 60_000,
  longestRetryAfter: 120_000,
}
