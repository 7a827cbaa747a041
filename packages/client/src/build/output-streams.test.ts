import { expect, test } from 'vitest'
import type { OutputSink } from '../output/output-sink.js'
import { createOutputStreams } from './output-streams.js'

const none = new Uint8Array()
const data = (text: string): Uint8Array => Buffer.from(text)

/** A sink that tells what was done with it. */
function sinkOf(told: string[], place: string, failing: string | undefined = undefined): OutputSink {
  const tell = async (what: string): Promise<void> => {
    told.push(`${place} ${what}`)
    if (failing !== undefined && what.startsWith(failing)) throw new Error(`no ${what}`)
  }
  return {
    place,
    write: (bytes) => tell(`write ${Buffer.from(bytes).toString()}`),
    finish: () => tell('finish'),
    abort: () => void told.push(`${place} abort`),
  }
}

function streamsOf(sinks: Readonly<Record<number, (told: string[]) => OutputSink>>) {
  const told: string[] = []
  const entries = Object.entries(sinks).map(([index, make]) => [Number(index), () => make(told)] as const)
  const acknowledge = async (output: number, error: string): Promise<void> =>
    void told.push(`${output} acknowledged ${JSON.stringify(error)}`)
  return { told, streams: createOutputStreams(new Map(entries), acknowledge) }
}

const exported = (output: string) => ({ kind: 'exported', at: 1, output }) as const

test('pieces go to their sink, and its place into the event', async () => {
  const { told, streams } = streamsOf({ 1: (t) => sinkOf(t, 'docker-daemon:a:1') })
  await streams.receive({ output: 1, data: data('one'), end: false })
  await streams.receive({ output: 1, data: none, end: true })
  expect(told).toEqual(['docker-daemon:a:1 write one', 'docker-daemon:a:1 finish', '1 acknowledged ""'])
  expect(streams.placed(exported('docker-archive:/a.tar'))).toEqual(exported('docker-archive:/a.tar'))
  expect(streams.placed(exported('docker-archive:-'))).toEqual(exported('docker-daemon:a:1'))
  streams.abort()
  expect(told).toHaveLength(3)
})

test('an empty output is made too', async () => {
  const { told, streams } = streamsOf({ 0: (t) => sinkOf(t, 'x') })
  await streams.receive({ output: 0, data: none, end: true })
  expect(told).toEqual(['x finish', '0 acknowledged ""'])
})

test.each(['write', 'finish'])('a failing %s is acknowledged once and ends the sink', async (failing) => {
  const { told, streams } = streamsOf({ 0: (t) => sinkOf(t, 'x', failing) })
  for (let i = 0; i < 3; i++) await streams.receive({ output: 0, data: data('a'), end: true })
  const failure = failing === 'write' ? 'no write a' : 'no finish'
  expect(told.slice(-2)).toEqual(['x abort', `0 acknowledged ${JSON.stringify(failure)}`])
  expect(streams.failure).toMatchObject({ message: failure })
})

test('a sink that cannot be made, or is not known, fails its output', async () => {
  const { told, streams } = streamsOf({
    0: () => {
      throw new Error('no room')
    },
  })
  await streams.receive({ output: 0, data: data('a'), end: false })
  await streams.receive({ output: 7, data: data('a'), end: false })
  expect(told).toEqual(['0 acknowledged "no room"', '7 acknowledged "the daemon sent an unknown output 7"'])
})

test('an abort ends what is open, and what fails then is no failure', async () => {
  let fail: (error: Error) => void = () => undefined
  const { told, streams } = streamsOf({
    0: (t) => ({
      ...sinkOf(t, 'x'),
      finish: () =>
        new Promise<void>((_, reject) => {
          fail = reject
        }),
    }),
  })
  const receiving = streams.receive({ output: 0, data: data('a'), end: true })
  await new Promise((resolve) => setImmediate(resolve))
  streams.abort()
  fail(new Error('aborted'))
  await receiving
  expect(told).toEqual(['x write a', 'x abort'])
  expect(streams.failure).toBeUndefined()
})
