import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Channel } from './channel.js'

/** Both directions of a call whose client is asked things while the daemon works. */
export interface Conversation<Req, Res> {
  /** Where `conduct` puts what the client shall get. */
  readonly outbound: Channel<Res>
  /** Does the work; the call ends with it. */
  conduct(signal: AbortSignal): Promise<void>
  /** Takes the frames of the client until they end. Fails on frames that break the rules, and with it the call. */
  receive(frames: AsyncIterable<Req>): Promise<void>
  /** Fails everything that still waits for the client. */
  end(reason: unknown): void
}

/** The responses of a call; whoever leaves them aborts the work. `frames`: what follows the options. */
export async function* converse<Req, Res>(
  frames: AsyncIterator<Req>,
  signal: AbortSignal,
  { outbound, conduct, receive, end }: Conversation<Req, Res>,
): AsyncGenerator<Res, void, undefined> {
  // Aborted with what went wrong between us and the client, which is then the call's error.
  const scope = new AbortController()
  receive({ [Symbol.asyncIterator]: () => frames }).catch((error: unknown) => {
    scope.abort(error)
    end(error)
  })
  conduct(AbortSignal.any([signal, scope.signal])).then(
    () => outbound.close(),
    (error: unknown) => outbound.fail(scope.signal.aborted ? scope.signal.reason : error),
  )
  try {
    yield* outbound
  } finally {
    const over = new BuilderError('ISB_CANCELLED', 'the call is over')
    scope.abort(over)
    end(over)
    outbound.close()
  }
}
