import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Encodable } from '@isula-build/shared/rpc/codec.js'
import type { CredentialAnswer, NeedCredentials } from '@isula-build/shared/rpc/credential-messages.js'
import { answerTo, type Logins } from '../credentials/logins.js'

type Asking = { readonly case: 'needCredentials'; readonly value: NeedCredentials }

/** A call in which the daemon may ask for logins. */
export interface AskingCall<Options, Event> {
  readonly responses: AsyncIterable<{ readonly event: Event | Asking | undefined }>
  write(request: {
    payload:
      | { readonly case: 'options'; readonly value: Options }
      | { readonly case: 'credentials'; readonly value: Encodable<typeof CredentialAnswer> }
  }): Promise<boolean>
  end(): void
  cancel(): void
}

/** Sends the options, answers what the daemon asks, and gives everything else it says. */
export async function* conversation<Options, Event extends { readonly case: string }>(
  call: AskingCall<Options, Event>,
  options: Options,
  logins: Logins,
): AsyncGenerator<Exclude<Event, Asking>, void, undefined> {
  let ownError: unknown
  try {
    await call.write({ payload: { case: 'options', value: options } })
    for await (const { event } of call.responses) {
      if (event === undefined) continue
      if (!isAsking(event)) yield event as Exclude<Event, Asking>
      else {
        answerTo(event.value, logins)
          .then((value) => call.write({ payload: { case: 'credentials', value } }))
          .catch((error: unknown) => {
            ownError = error
            call.cancel()
          })
      }
    }
  } catch (error) {
    throw ownError ?? error
  } finally {
    call.end()
  }
}

function isAsking(event: { readonly case: string }): event is Asking {
  return event.case === 'needCredentials'
}

/** The same error with what the original's client writes in front of it. */
export function prefixed(prefix: string): (error: unknown) => never {
  return (error) => {
    if (!isBuilderError(error)) throw error
    throw new BuilderError(error.code, `${prefix}${error.message}`, error.details)
  }
}
