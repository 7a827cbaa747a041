/** Why a request got no (whole) answer. Becomes a BuilderError where host and purpose are known. */
export class NoAnswer extends Error {
  override readonly name = 'NoAnswer'

  constructor(
    /** For users: cause first, no secrets. */
    message: string,
    readonly details: {
      /** The same request may succeed later. */
      readonly transient: boolean
      /** Nothing was sent, and the other side does not seem to speak TLS. */
      readonly noTls?: boolean
      /** Nobody listens there. */
      readonly refused?: boolean
      /** All was sent, and no answer came in time. */
      readonly late?: boolean
      /** Answers by what it is, not by the moment: a certificate, a proxy's refusal. */
      readonly hint?: string | undefined
      readonly cause?: unknown
    },
  ) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
  }
}
