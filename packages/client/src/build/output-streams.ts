import type { BuildEvent } from '@isula-build/shared/progress/events.js'
import type { OutputSink } from '../output/output-sink.js'

interface OutputFrame {
  readonly output: number
  readonly data: Uint8Array
  readonly end: boolean
}

export interface OutputStreams {
  receive(frame: OutputFrame): Promise<void>
  /** The event that an output is done, naming the place where this side has put it. */
  placed(event: BuildEvent): BuildEvent
  /** What stopped the first output that could not be written. */
  readonly failure: unknown
  /** Nothing more will come; what is not finished is removed. */
  abort(): void
}

/**
 * Brings what the daemon streams to the sinks, one by index of its output. It waits for `acknowledge` once per
 * output; '' means that everything is where it belongs.
 */
export function createOutputStreams(
  sinks: ReadonlyMap<number, () => OutputSink>,
  acknowledge: (output: number, error: string) => Promise<unknown>,
): OutputStreams {
  const open = new Map<number, OutputSink>()
  const done = new Set<number>()
  /** Of finished outputs that the daemon has not told of yet. */
  const places: string[] = []
  let failure: unknown
  let isAborted = false

  function sinkOf(output: number): OutputSink {
    const known = open.get(output)
    if (known !== undefined) return known
    const make = sinks.get(output)
    if (make === undefined) throw new Error(`the daemon sent an unknown output ${output}`)
    const sink = make()
    open.set(output, sink)
    return sink
  }

  async function put({ output, data, end }: OutputFrame): Promise<string | undefined> {
    const sink = sinkOf(output)
    if (data.length > 0) await sink.write(data)
    if (!end) return undefined
    await sink.finish()
    open.delete(output)
    return sink.place
  }

  return {
    get failure() {
      return failure
    },
    async receive(frame) {
      const { output } = frame
      if (isAborted || done.has(output)) return
      let place: string | undefined
      try {
        place = await put(frame)
      } catch (error) {
        done.add(output)
        open.get(output)?.abort()
        open.delete(output)
        // Ended by the abort, it has nothing to tell.
        if (isAborted) return
        failure ??= error
        await acknowledge(output, error instanceof Error ? error.message : String(error))
        return
      }
      if (place === undefined) return
      done.add(output)
      places.push(place)
      await acknowledge(output, '')
    },
    placed(event) {
      if (event.kind !== 'exported' || !event.output.endsWith(':-')) return event
      return { ...event, output: places.shift() ?? event.output }
    },
    abort() {
      isAborted = true
      for (const sink of open.values()) sink.abort()
      open.clear()
    },
  }
}
