import { PassThrough, Readable } from 'node:stream'
import { maxChunk } from '@isula-build/shared/rpc/build-messages.js'
import { expect, test } from 'vitest'
import { uploading } from './upload.js'

/** A call that keeps what is written; its responses end with `ending`, or when it is ended or cancelled. */
function fakeCall(ending?: Promise<never>) {
  const written: Uint8Array[] = []
  let finish: (how: string) => void = () => undefined
  const finished = new Promise<string>((resolve) => {
    finish = resolve
  })
  const call = {
    written,
    responses: (async function* () {
      const how = await (ending === undefined ? finished : Promise.race([finished, ending]))
      if (how === 'cancelled') throw new Error('the call was cancelled')
      yield how
    })(),
    write: async ({ payload }: { payload: { value: Uint8Array } }) => {
      written.push(payload.value)
      return true
    },
    end: () => finish('ended'),
    cancel: () => finish('cancelled'),
  }
  return call
}

async function all<T>(items: AsyncIterable<T>): Promise<readonly T[]> {
  const list: T[] = []
  for await (const item of items) list.push(item)
  return list
}

test('the source goes over in frames, then the call is ended', async () => {
  const call = fakeCall()
  const source = Readable.from([Buffer.alloc(2 * maxChunk + 1), Buffer.from('x')])
  expect(await all(uploading(call, source))).toEqual(['ended'])
  expect(call.written.map(({ length }) => length)).toEqual([maxChunk, maxChunk, 1, 1])
})

test('a source that breaks cancels the call and is the error', async () => {
  const call = fakeCall()
  const source = new PassThrough()
  const responses = all(uploading(call, source))
  source.write('half')
  source.destroy(new Error('the disk is gone'))
  await expect(responses).rejects.toThrow('the disk is gone')
})

test('a call that fails is the error, and a source that goes on is closed', async () => {
  const call = fakeCall(Promise.reject(new Error('no archive')))
  const source = new PassThrough()
  source.write('endless')
  await expect(all(uploading(call, source))).rejects.toThrow('no archive')
  expect(source.destroyed).toBe(true)
})
