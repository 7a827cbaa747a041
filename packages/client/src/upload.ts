import type { Readable } from 'node:stream'
import { maxChunk } from '@isula-build/shared/rpc/build-messages.js'

/** Cuts a stream into frames of at most 1 MiB. */
export async function* frames(source: AsyncIterable<Uint8Array>): AsyncIterable<Uint8Array> {
  for await (const piece of source) {
    for (let at = 0; at < piece.length; at += maxChunk) yield piece.subarray(at, at + maxChunk)
  }
}

interface ChunkCall<Res> {
  readonly responses: AsyncIterable<Res>
  write(request: { payload: { case: 'chunk'; value: Uint8Array } }): Promise<boolean>
  end(): void
  cancel(): void
}

/**
 * The responses of a call whose archive comes from `source`. A source that breaks cancels the call, for half
 * an archive must not look whole, and is then the error.
 */
export async function* uploading<Res>(call: ChunkCall<Res>, source: Readable): AsyncIterable<Res> {
  let broken: { readonly error: unknown } | undefined
  const send = async (): Promise<void> => {
    for await (const value of frames(source)) {
      if (!(await call.write({ payload: { case: 'chunk', value } }))) return
    }
    call.end()
  }
  send().catch((error: unknown) => {
    broken = { error }
    call.cancel()
  })
  try {
    yield* call.responses
  } catch (error) {
    throw broken === undefined ? error : broken.error
  } finally {
    // An input that nobody reads any more would keep the process until its writer is done.
    source.destroy()
  }
}
