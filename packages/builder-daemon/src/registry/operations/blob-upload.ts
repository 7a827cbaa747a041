import { stat } from 'node:fs/promises'
import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Digest } from '@isula-build/shared/oci/digest.js'
import type { BlobUpload } from '../../ports/registry.js'
import { pause } from '../http/cancellation.js'
import type { Answer } from '../http/exchange.js'
import { NoAnswer } from '../http/no-answer.js'
import { transientStatuses } from '../http/retry.js'
import { digestOfFile } from './blob-file.js'
import { hasBlob } from './blob-presence.js'
import { type FileBody, fileBody } from './file-body.js'
import { createPatience, type Patience } from './patience.js'
import { type Refusal, readRefusal } from './refusal.js'
import { otherDigest, type Target } from './target.js'
import {
  acknowledged,
  askUpload,
  beginUpload,
  emptyBody,
  sendUpload,
  sessionOf,
  type UploadSession,
  uploadTitle,
  withDigest,
} from './upload-session.js'

const maxRestarts = 2
/** Of one request, where a longer one was too long. */
const cautiousChunk = 16 << 20
/** Something between us and the registry may end long requests. */
const maxCuts = 2
/** How often a registry that does not answer the end of an upload is asked whether it has the blob. */
const maxLooks = 3
/** The registry took no offence at the client, so a new upload may succeed where this one did not. */
const restartable = [400, 404, 405, 409, 410, 411, 415, 416, 501]
const refusals = [...restartable, 413, ...transientStatuses]

/**
 * What `RegistryClient.uploadBlob` does: first the whole blob in one PUT; when that fails, in PATCHes from wherever the
 * registry says it is. Registries that cannot go on after a break (Docker's own up to 2.8 binds its Location to an
 * offset) get the blob from the start, as often as the access says; those that refuse it, twice more. `begun`: an upload
 * that the registry has opened for it already.
 */
export async function uploadBlob(
  target: Target,
  blob: BlobUpload,
  begun: UploadSession | undefined,
): Promise<void> {
  const what = uploadTitle(target, blob.digest)
  const upload: Upload = {
    ...{ target, blob, what, patience: createPatience(target.call, 0) },
    ...{ refusals: 0, cuts: 0, chunk: Number.POSITIVE_INFINITY },
  }
  await checkSize(blob, what)
  let step = await finish(upload, begun ?? (await beginUpload(target, what)), blob.size)
  for (;;) {
    switch (step.to) {
      case 'done':
        blob.onProgress?.(blob.size)
        return
      case 'goOn': {
        const { session } = step
        if (upload.patience.reached(session.offset)) upload.cuts = 0
        blob.onProgress?.(session.offset)
        step =
          session.offset < blob.size ? await sendChunk(upload, session) : await finish(upload, session, 0)
        break
      }
      case 'ask': {
        const session = await askUpload(target, step.session, what)
        if (session !== undefined && session.offset <= blob.size) step = { to: 'goOn', session }
        else step = { to: 'restart', reason: undefined }
        break
      }
      case 'restart':
        step = await restart(upload, step.reason)
        break
    }
  }
}

interface Upload {
  readonly target: Target
  readonly blob: BlobUpload
  readonly what: string
  readonly patience: Patience
  /** Restarts because of what the registry said. */
  refusals: number
  /** Requests without an answer since the upload last came farther. */
  cuts: number
  /** The longest body of one PATCH. */
  chunk: number
}

type Step =
  | { readonly to: 'done' }
  | { readonly to: 'goOn'; readonly session: UploadSession }
  /** What has arrived is not known. */
  | { readonly to: 'ask'; readonly session: UploadSession }
  /** `reason`: the registry did not want it; undefined: it cannot go on after a break, which has been counted. */
  | { readonly to: 'restart'; readonly reason: string | undefined }

/** The PUT that ends the upload; `length`: bytes of the blob that it carries, all of them or none. */
async function finish(upload: Upload, session: UploadSession, length: number): Promise<Step> {
  const { target, blob, what } = upload
  const body = fileBody(blob.path, 0, length, (position) => blob.onProgress?.(position))
  const sent = await attempt(upload, session, body, () =>
    sendUpload(
      target,
      {
        ...{ method: 'PUT', target: withDigest(session.location, blob.digest), repeat: 'once' },
        ...(length > 0 && { headers: { 'content-type': 'application/octet-stream' } }),
        body: length > 0 ? body : emptyBody,
        // It computes the digest, and may copy all of it, before it answers.
        work: blob.size,
        expect: [201, 200, 202, 204, ...refusals],
      },
      what,
    ),
  )
  if ('step' in sent) {
    const isStored = sent.late && (await appears(upload))
    return isStored ? { to: 'done' } : sent.step
  }
  const { answer } = sent
  await answer.discard()
  checkStored(answer, blob.digest, what)
  if (answer.status === 201 || (await hasBlob(target, blob.digest))) return { to: 'done' }
  return { to: 'restart', reason: `the registry answered status ${answer.status} and does not have the blob` }
}

/** One PATCH from the acknowledged offset. */
async function sendChunk(upload: Upload, session: UploadSession): Promise<Step> {
  const { target, blob, what } = upload
  const start = session.offset
  const end = Math.min(blob.size, start + Math.max(upload.chunk, session.minimum, 1))
  const body = fileBody(blob.path, start, end, (position) => blob.onProgress?.(position))
  const sent = await attempt(upload, session, body, () =>
    sendUpload(
      target,
      {
        ...{ method: 'PATCH', target: session.location, repeat: 'once' },
        headers: { 'content-type': 'application/octet-stream', 'content-range': `${start}-${end - 1}` },
        body,
        expect: [202, 200, 201, 204, ...refusals],
      },
      what,
    ),
  )
  if ('step' in sent) return sent.step
  const { answer } = sent
  await answer.discard()
  const reached = acknowledged(answer.headers['range'], end)
  if (reached > blob.size) {
    return { to: 'restart', reason: `the registry says it has ${reached} of ${blob.size} bytes` }
  }
  const next = sessionOf(answer, session, reached, what)
  if (reached < end) {
    if (upload.patience.reached(reached)) upload.cuts = 0
    await upload.patience.next(failed(what, `the registry took ${reached - start} of ${end - start} bytes`))
  }
  return { to: 'goOn', session: next }
}

/** The answer of a request that was taken, or how to go on without. */
async function attempt(
  upload: Upload,
  session: UploadSession,
  body: FileBody,
  request: () => Promise<Answer>,
): Promise<{ readonly answer: Answer } | { readonly step: Step; readonly late: boolean }> {
  let answer: Answer
  try {
    answer = await request()
  } catch (error) {
    if (!isBuilderError(error, 'ISB_REGISTRY_UNAVAILABLE')) throw error
    await upload.patience.next(error)
    upload.cuts += 1
    if (upload.cuts >= maxCuts) upload.chunk = Math.min(upload.chunk, cautiousChunk)
    const late = error.cause instanceof NoAnswer && error.cause.details.late === true
    return { step: { to: 'ask', session }, late }
  } finally {
    await body.closed()
  }
  if (answer.status < 400) return { answer }
  const refusal = await readRefusal(answer)
  return { step: await afterRefusal(upload, session, refusal), late: false }
}

/** The registry may still be busy with the end of the upload. */
async function appears({ target, blob }: Upload): Promise<boolean> {
  const { access, signal } = target.call
  for (let look = 0; look < maxLooks; look++) {
    if (look > 0) await pause((access.retryDelay ?? 1000) * 2 ** look, signal)
    if (await hasBlob(target, blob.digest)) return true
  }
  return false
}

async function afterRefusal(upload: Upload, session: UploadSession, refusal: Refusal): Promise<Step> {
  const { blob, what, patience } = upload
  if (transientStatuses.has(refusal.status)) {
    await patience.next(failed(what, refusal.text), refusal.retryAfter)
    return { to: 'ask', session }
  }
  if (refusal.status === 416) {
    await patience.next(failed(what, refusal.text))
    return { to: 'ask', session }
  }
  if (refusal.status === 413) {
    if (upload.chunk <= cautiousChunk || blob.size <= cautiousChunk) throw tooLarge(upload, refusal)
    upload.chunk = cautiousChunk
    return { to: 'ask', session }
  }
  if (refusal.code === 'DIGEST_INVALID') await checkFile(upload)
  return { to: 'restart', reason: refusal.text }
}

async function restart(upload: Upload, reason: string | undefined): Promise<Step> {
  const { target, blob, what } = upload
  // An upload may be unknown because it has ended well, and only its answer was lost.
  if (await hasBlob(target, blob.digest)) return { to: 'done' }
  if (reason !== undefined) {
    upload.refusals += 1
    if (upload.refusals > maxRestarts) {
      throw new BuilderError('ISB_REGISTRY_DENIED', `${what} failed: ${reason}`, {
        hint: `It was begun ${upload.refusals} times; the registry's own log may say more.`,
      })
    }
  }
  return { to: 'goOn', session: await beginUpload(target, what) }
}

async function checkSize(blob: BlobUpload, what: string): Promise<void> {
  const { size } = await stat(blob.path)
  if (size !== blob.size) throw notThisBlob(what)
}

/** Whose fault a wrong digest is. */
async function checkFile({ target, blob, what }: Upload): Promise<void> {
  const digest = await digestOfFile(blob.path, blob.size, target.call.signal)
  if (digest !== blob.digest) throw notThisBlob(what)
}

function notThisBlob(what: string): BuilderError {
  return new BuilderError('ISB_DIGEST_MISMATCH', `${what}: the local file is not this blob`, {
    hint: 'Push again; the blob is made anew.',
  })
}

function checkStored(answer: Answer, digest: Digest, what: string): void {
  const stored = otherDigest(answer.headers['docker-content-digest'], digest)
  if (stored === undefined) return
  throw new BuilderError(
    'ISB_DIGEST_MISMATCH',
    `${what}: the registry says that it stored ${JSON.stringify(stored.slice(0, 100))}`,
  )
}

function tooLarge({ target, what }: Upload, refusal: Refusal): BuilderError {
  return new BuilderError(
    'ISB_REGISTRY_DENIED',
    `${what} failed: too large for the registry (${refusal.text})`,
    {
      hint: `${target.endpoint.host}, or a proxy in front of it, limits the size of requests.`,
    },
  )
}

function failed(what: string, reason: string): BuilderError {
  return new BuilderError('ISB_REGISTRY_UNAVAILABLE', `${what} failed: ${reason}`)
}
