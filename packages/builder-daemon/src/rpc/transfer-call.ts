import type { Encodable } from '@isula-build/shared/rpc/codec.js'
import type { CredentialAnswer, NeedCredentials } from '@isula-build/shared/rpc/credential-messages.js'
import type { TransferResponse } from '@isula-build/shared/rpc/transfer-messages.js'
import type { CallContext } from './adapter.js'
import { transferredBy } from './audit-facts.js'
import { createChannel } from './channel.js'
import { converse } from './conversation.js'
import { createCredentialQuestions } from './credential-questions.js'
import type { CredentialClient, TransferEvent } from './handlers.js'
import { invalid } from './request-checks.js'

interface Frame<Options> {
  readonly payload:
    | { readonly case: 'options'; readonly value: Options }
    | { readonly case: 'credentials'; readonly value: CredentialAnswer }
    | undefined
}

interface Asking {
  readonly event: { readonly case: 'needCredentials'; readonly value: Encodable<typeof NeedCredentials> }
}

/** Responses made and not yet sent. */
const backlog = 16

/**
 * A call that begins with its options and may need logins of its client: `work` gives the responses. `what` names the
 * call in messages.
 */
export async function* transferCall<Options, Res>(
  requests: AsyncIterable<Frame<Options>>,
  { signal }: CallContext,
  what: string,
  work: (options: Options, client: CredentialClient, signal: AbortSignal) => AsyncIterable<Res>,
): AsyncGenerator<Res | Asking, void, undefined> {
  const frames = requests[Symbol.asyncIterator]()
  const first = await frames.next()
  const payload = first.done === true ? undefined : first.value.payload
  if (payload?.case !== 'options') throw invalid(`the first frame of ${what} is its options`)
  const outbound = createChannel<Res | Asking>(backlog)
  const questions = createCredentialQuestions(async (value) => {
    await outbound.push({ event: { case: 'needCredentials', value } })
  })
  yield* converse(frames, signal, {
    outbound,
    async conduct(either) {
      for await (const response of work(payload.value, questions.client, either)) {
        if (!(await outbound.push(response))) return
      }
    },
    async receive(answers) {
      for await (const { payload: answer } of answers) {
        if (answer?.case !== 'credentials') throw invalid(`after the options of ${what} only answers follow`)
        questions.answer(answer.value)
      }
      questions.close()
    },
    end: questions.fail,
  })
}

/** Events of a transfer as they are sent, and noted for the audit log. */
export async function* transferResponses(
  events: AsyncIterable<TransferEvent>,
  note: CallContext['note'],
): AsyncGenerator<TransferResponse, void, undefined> {
  for await (const event of events) {
    note({ results: transferredBy(event) })
    yield { event: responseOf(event) }
  }
}

function responseOf(event: TransferEvent): TransferResponse['event'] {
  switch (event.kind) {
    case 'log':
      return { case: 'log', value: event.line }
    case 'progress': {
      const { digest, done, total } = event
      return { case: 'progress', value: { digest, done, total } }
    }
    case 'stored':
      return { case: 'stored', value: { id: event.imageId, names: event.names, digest: event.digest ?? '' } }
    case 'pushed': {
      const { reference, digest, size } = event
      return { case: 'pushed', value: { reference, digest, size } }
    }
  }
}
