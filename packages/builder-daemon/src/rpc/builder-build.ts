import type { BuildEvent } from '@isula-build/shared/progress/events.js'
import { encodeBuildEvent } from '@isula-build/shared/rpc/build-event.js'
import { type BuildRequest, type BuildResponse, maxChunk } from '@isula-build/shared/rpc/build-messages.js'
import type { CallContext } from './adapter.js'
import { buildOptionsOf } from './build-options.js'
import { createBuildSession } from './build-session.js'
import { type Channel, createChannel } from './channel.js'
import { converse } from './conversation.js'
import type { BuilderCore, RunningBuild } from './handlers.js'
import { invalid } from './request-checks.js'

/** Responses made and not yet sent: so many bytes of events, or four frames of anything else. */
const backlog = 16 * 1024
/**
 * Milliseconds that an event may wait for others, to leave with them in one write and wake its client once. Nobody sees
 * such a delay; whatever else is said, and the end of the build, takes what waits along at once.
 */
const gathering = 40
const smallFrame = 128

/** One build: options first, then whatever the build and its client have to tell each other. */
export async function* build(
  core: BuilderCore,
  requests: AsyncIterable<BuildRequest>,
  { caller, signal, note }: CallContext,
): AsyncGenerator<BuildResponse, void, undefined> {
  const frames = requests[Symbol.asyncIterator]()
  const first = await frames.next()
  const payload = first.done === true ? undefined : first.value.payload
  if (payload?.case !== 'options') throw invalid('the first frame of a build is its options')
  const options = buildOptionsOf(payload.value)
  const quiet = payload.value.quiet

  const outbound = createChannel<BuildResponse>(backlog, {
    weigh: weightOf,
    patience: ({ payload }) => (payload?.case === 'event' ? gathering : 0),
  })
  const session = createBuildSession(options, outbound)
  yield* converse(frames, signal, {
    outbound,
    async conduct(either) {
      const running = await core.startBuild(options, session.client, caller, either)
      note({ build: running.id })
      const { imageId, names } = await follow(running, outbound, { quiet, signal: either })
      note({ results: [imageId] })
      await outbound.push({ payload: { case: 'result', value: { imageId, names } } })
    },
    receive: session.receive,
    end: session.end,
  })
}

/** Roughly what a response takes on the wire. */
function weightOf({ payload }: BuildResponse): number {
  if (payload?.case !== 'event') return backlog / 4
  const { event } = payload.value
  return event?.case === 'output' ? smallFrame + (event.value.data?.length ?? 0) : smallFrame
}

interface Following {
  readonly quiet: boolean
  readonly signal: AbortSignal
}

async function follow(running: RunningBuild, outbound: Channel<BuildResponse>, { quiet, signal }: Following) {
  const { result } = running
  // It is awaited once the events are through, and may have failed by then.
  result.catch(() => undefined)
  try {
    for await (const event of running.events(signal)) {
      if (quiet && !shownWhenQuiet(event)) continue
      for (const part of split(event)) {
        await outbound.push({ payload: { case: 'event', value: encodeBuildEvent(part) } })
      }
    }
  } catch (error) {
    // Why the build ended says more than why its events did.
    await result
    throw error
  }
  return result
}

function shownWhenQuiet({ kind }: BuildEvent): boolean {
  return kind === 'warning' || kind === 'finished' || kind === 'failed'
}

function split(event: BuildEvent): readonly BuildEvent[] {
  if (event.kind !== 'output' || event.data.length <= maxChunk) return [event]
  const parts: BuildEvent[] = []
  for (let at = 0; at < event.data.length; at += maxChunk) {
    parts.push({ ...event, data: event.data.subarray(at, at + maxChunk) })
  }
  return parts
}
