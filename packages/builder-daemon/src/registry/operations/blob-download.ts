import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Descriptor } from '@isula-build/shared/oci/descriptor.js'
import { type Digest, digestOf } from '@isula-build/shared/oci/digest.js'
import type { BlobDownload } from '../../ports/registry.js'
import type { Answer, Exchange } from '../http/exchange.js'
import { type BlobFile, openBlobFile } from './blob-file.js'
import { createPatience, type Patience } from './patience.js'
import { blobPath, nameOf, pullScope, send, type Target } from './target.js'
import { fetchWhole } from './whole-answer.js'

/** What `RegistryClient.readBlob` does. */
export async function readBlob(target: Target, blob: Descriptor, limit: number): Promise<Uint8Array> {
  const what = titleOf(target, blob.digest)
  if (blob.size > limit) {
    throw new BuilderError('ISB_LIMIT_EXCEEDED', `${what} has ${blob.size} bytes, more than ${limit}`)
  }
  const { answer, bytes } = await fetchWhole(
    target,
    blobRequest(target, blob.digest, 0),
    blob.size,
    what,
  ).catch((error: unknown) => {
    throw isBuilderError(error, 'ISB_LIMIT_EXCEEDED') ? tooLong(what, blob.size) : error
  })
  if (answer.status === 404) throw missing(target, blob.digest)
  if (answer.status !== 200) throw untrue(what, `status ${answer.status} to a request for all of it`)
  checkEncoding(answer, what)
  if (bytes.length !== blob.size) {
    throw mismatch(`${what} has ${bytes.length} bytes instead of ${blob.size}`)
  }
  const digest = digestOf(bytes)
  if (digest !== blob.digest) throw wrongContent(what, digest)
  return bytes
}

/** What `RegistryClient.fetchBlob` does. */
export async function fetchBlob(target: Target, blob: Descriptor, download: BlobDownload): Promise<void> {
  await using file = await openBlobFile(download.path, blob.size, target.call.signal)
  download.onProgress?.(file.offset)
  const fetching: Fetching = {
    ...{ target, blob, download, file, what: titleOf(target, blob.digest) },
    patience: createPatience(target.call, file.offset),
    composed: file.offset > 0,
    refused: false,
  }
  try {
    await complete(fetching)
    // What an earlier attempt left, or another server began, may have been something else.
    if (file.digest() !== blob.digest && fetching.composed) {
      await startOver(fetching)
      await complete(fetching)
    }
    if (file.digest() !== blob.digest) throw wrongContent(fetching.what, file.digest())
  } catch (error) {
    const useless = isBuilderError(error, 'ISB_DIGEST_MISMATCH') || isBuilderError(error, 'ISB_NO_SPACE')
    if (useless) await file.clear()
    else await file.flush()
    throw error
  }
}

interface Fetching {
  readonly target: Target
  readonly blob: Descriptor
  readonly download: BlobDownload
  readonly file: BlobFile
  readonly what: string
  readonly patience: Patience
  /** The bytes in the file did not come in one answer. */
  composed: boolean
  /** A Range was answered with 416. */
  refused: boolean
}

/** Until the file has as many bytes as the blob. */
async function complete(fetching: Fetching): Promise<void> {
  const { file, blob, patience, what } = fetching
  while (file.offset < blob.size) {
    const answer = await ask(fetching)
    if (answer === undefined) continue
    const failure = await take(fetching, answer)
    if (failure === undefined && file.offset === blob.size) break
    patience.reached(file.offset)
    await patience.next(failure ?? endedEarly(what, file.offset, blob.size))
  }
  await file.flush()
}

/** The next bytes of the blob; undefined when the file was emptied instead. */
async function ask(fetching: Fetching): Promise<Answer | undefined> {
  const { target, file, blob, what } = fetching
  const answer = await send(target, blobRequest(target, blob.digest, file.offset), what)
  if (answer.status === 404) {
    await answer.discard()
    throw missing(target, blob.digest)
  }
  if (answer.status === 416) {
    await answer.discard()
    checkTotal(/^bytes \*\/(\d+)$/.exec(answer.headers['content-range'] ?? '')?.[1], blob.size, what)
    // Without a Range nobody may say so, and once is enough with one.
    if (file.offset === 0 || fetching.refused) throw untrue(what, 'status 416')
    fetching.refused = true
    await startOver(fetching)
    return undefined
  }
  try {
    checkEncoding(answer, what)
    if (answer.status === 206) {
      checkRange(answer.headers['content-range'], file.offset, blob.size, what)
      fetching.composed = true
    } else if (file.offset > 0) await startOver(fetching)
    checkLength(answer, blob.size - file.offset, what)
  } catch (error) {
    await answer.discard()
    throw error
  }
  return answer
}

/** Appends the body; gives the reason when it broke off, and what came before stays. */
async function take(fetching: Fetching, answer: Answer): Promise<BuilderError | undefined> {
  const { file, blob, download, what } = fetching
  try {
    for await (const chunk of answer.body) {
      if (file.offset + chunk.length > blob.size) throw tooLong(what, blob.size)
      await file.append(chunk)
      download.onProgress?.(file.offset)
    }
  } catch (error) {
    if (isBuilderError(error, 'ISB_REGISTRY_UNAVAILABLE')) return error
    throw error
  }
  return undefined
}

async function startOver(fetching: Fetching): Promise<void> {
  await fetching.file.clear()
  fetching.composed = false
  fetching.download.onProgress?.(0)
}

function blobRequest(target: Target, digest: Digest, offset: number): Exchange {
  return {
    method: 'GET',
    target: blobPath(target.endpoint, digest),
    headers: { 'accept-encoding': 'identity', ...(offset > 0 && { range: `bytes=${offset}-` }) },
    scope: pullScope(target.endpoint),
    expect: [200, 206, 404, 416],
    repeat: 'safe',
  }
}

/** RFC 9110 section 14.4. What lies about the place of its bytes is not believed about the bytes. */
function checkRange(header: string | undefined, offset: number, size: number, what: string): void {
  if (offset === 0) throw untrue(what, 'status 206 to a request for all of it')
  const [, start, end, total] = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(header ?? '') ?? []
  if (Number(start) !== offset || !(Number(end) >= offset) || Number(end) >= size) {
    const said =
      header === undefined ? 'no Content-Range' : `Content-Range ${JSON.stringify(header.slice(0, 100))}`
    throw untrue(what, `${said} to a request for bytes ${offset}-`)
  }
  if (total !== '*') checkTotal(total, size, what)
}

function checkTotal(total: string | undefined, size: number, what: string): void {
  if (total === undefined || Number(total) === size) return
  throw mismatch(`${what} has ${total} bytes instead of ${size}`)
}

/** One that promises less than is missing may be continued. */
function checkLength(answer: Answer, missing: number, what: string): void {
  const length = answer.headers['content-length']
  if (length !== undefined && !(Number(length) <= missing)) {
    throw mismatch(`${what}: the registry sends ${length.slice(0, 30)} bytes where ${missing} are missing`)
  }
}

function checkEncoding(answer: Answer, what: string): void {
  const encoding = answer.headers['content-encoding'] ?? 'identity'
  if (encoding !== 'identity') {
    throw untrue(what, `Content-Encoding ${JSON.stringify(encoding.slice(0, 50))}, which was not asked for`)
  }
}

function titleOf({ endpoint }: Target, digest: Digest): string {
  return `blob ${digest} of ${nameOf(endpoint)}`
}

function missing({ endpoint }: Target, digest: Digest): BuilderError {
  return new BuilderError(
    'ISB_IMAGE_NOT_FOUND',
    `${nameOf(endpoint)} does not have blob ${digest} (status 404)`,
    {
      hint: 'The image at the registry is incomplete; push it again.',
    },
  )
}

function endedEarly(what: string, offset: number, size: number): BuilderError {
  return new BuilderError('ISB_REGISTRY_UNAVAILABLE', `${what} ended after ${offset} of ${size} bytes`)
}

function tooLong(what: string, size: number): BuilderError {
  return mismatch(`${what} is longer than the ${size} bytes its manifest says`)
}

function wrongContent(what: string, digest: Digest): BuilderError {
  return mismatch(`${what}: what the registry sent has digest ${digest}`)
}

function untrue(what: string, answered: string): BuilderError {
  return mismatch(`${what}: the registry answered ${answered}`)
}

function mismatch(message: string): BuilderError {
  return new BuilderError('ISB_DIGEST_MISMATCH', message)
}
