import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { BlobStream } from '../../ports/registry.js'
import { type BlobPipeReader, BlobPipeSpent, readFromPipe, type WholeBlob } from '../../system/blob-pipe.js'
import type { Answer, RequestBody } from '../http/exchange.js'
import { transientStatuses } from '../http/retry.js'
import { hasBlob } from './blob-presence.js'
import { readRefusal } from './refusal.js'
import { nameOf, otherDigest, type Target } from './target.js'
import {
  acknowledged,
  beginUpload,
  emptyBody,
  sendUpload,
  sessionOf,
  type UploadSession,
  withDigest,
} from './upload-session.js'

/** What a registry may say to an upload whose length it does not know, where it takes others. */
const refusals = [400, 403, 404, 405, 409, 410, 411, 413, 415, 416, 501, ...transientStatuses]
const binary = { 'content-type': 'application/octet-stream' }

export type StreamOutcome = 'stored' | 'failed' | 'refused'

/**
 * What `RegistryClient.streamBlob` does: one PATCH of a length that nobody knows yet, as Docker's own client sends it, and a
 * PUT with the digest that is known at its end. A blob that is whole before there is a ring of it goes in one PUT. Nothing
 * is tried twice. `refused`: the registry answered, and did not want it.
 */
export async function streamBlob(target: Target, stream: BlobStream): Promise<StreamOutcome> {
  const what = `upload of a layer to ${nameOf(target.endpoint)}`
  const pipe = readFromPipe(stream.memory, stream.path, target.call.signal)
  const small = await pipe.ready()
  if (small !== undefined && (await hasBlob(target, small.digest))) return 'stored'
  const session = await beginUpload(target, what)
  try {
    const body = bodyOf(pipe, small?.size, stream.onProgress)
    return small === undefined
      ? await sendInParts({ target, pipe, what }, session, body)
      : await end({ target, pipe, what }, session, small, body)
  } catch (error) {
    // The connection broke; a file can be sent on from there.
    if (isBuilderError(error, 'ISB_REGISTRY_UNAVAILABLE')) return 'failed'
    // It was to be sent again, elsewhere or with another token.
    if (error instanceof BlobPipeSpent) return 'refused'
    throw error
  }
}

interface Streaming {
  readonly target: Target
  readonly pipe: BlobPipeReader
  readonly what: string
}

async function sendInParts(
  streaming: Streaming,
  session: UploadSession,
  body: CountedBody,
): Promise<StreamOutcome> {
  const { target, pipe, what } = streaming
  const answer = await sendUpload(
    target,
    {
      ...{ method: 'PATCH', target: session.location, repeat: 'once', headers: binary, body },
      expect: [202, 200, 201, 204, ...refusals],
    },
    what,
  )
  const refusal = await refusalOf(answer)
  if (refusal !== undefined) return refusal
  const blob = pipe.whole()
  // An answer that came before the end is none.
  if (blob === undefined || body.sent() !== blob.size) return 'refused'
  const reached = acknowledged(answer.headers['range'], blob.size)
  if (reached !== blob.size) return 'refused'
  return await end(streaming, sessionOf(answer, session, reached, what), blob, undefined)
}

/** The PUT that ends it, with all of the blob or nothing. */
async function end(
  { target, what }: Streaming,
  session: UploadSession,
  { digest, size }: WholeBlob,
  body: RequestBody | undefined,
): Promise<StreamOutcome> {
  const answer = await sendUpload(
    target,
    {
      ...{ method: 'PUT', target: withDigest(session.location, digest), repeat: 'once' },
      ...(body === undefined ? { body: emptyBody } : { body, headers: binary }),
      // It computes the digest, and may copy all of it, before it answers.
      work: size,
      expect: [201, 200, 202, 204, ...refusals],
    },
    what,
  )
  const refusal = await refusalOf(answer)
  if (refusal !== undefined) return refusal
  const isOther = otherDigest(answer.headers['docker-content-digest'], digest) !== undefined
  if (isOther || !(answer.status === 201 || (await hasBlob(target, digest)))) return 'refused'
  return 'stored'
}

async function refusalOf(answer: Answer): Promise<'failed' | 'refused' | undefined> {
  if (answer.status >= 400) {
    await readRefusal(answer)
    return transientStatuses.has(answer.status) ? 'failed' : 'refused'
  }
  await answer.discard()
  return undefined
}

type CountedBody = RequestBody & { sent(): number }

function bodyOf(
  pipe: BlobPipeReader,
  size: number | undefined,
  onProgress: BlobStream['onProgress'],
): CountedBody {
  let sent = 0
  async function* counted(): AsyncGenerator<Uint8Array, void, undefined> {
    for await (const piece of pipe.pieces()) {
      yield piece
      sent += piece.length
      onProgress?.(sent)
    }
  }
  return { size, open: counted, sent: () => sent }
}
