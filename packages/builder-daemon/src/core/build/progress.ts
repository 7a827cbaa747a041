import type { StepCache } from '@isula-build/shared/progress/cache-reason.js'
import type { BuildEvent } from '@isula-build/shared/progress/events.js'
import type { Clock } from '../../ports/clock.js'
import type { Step, UnneededStep } from '../plan/plan.js'
import { abortable, type Deferred, deferred } from './deferred.js'

type Outcome = 'done' | 'cached' | 'failed' | 'cancelled'

interface StepEnd {
  readonly outcome: Outcome
  readonly at: number
  /** Found out apart: only who watches waits for it. */
  readonly cache?: StepCache | Promise<StepCache> | undefined
}

interface StepState {
  readonly step: Step
  startedAt: number | undefined
  spool: string | undefined
  isFinished: boolean
  readonly started: Deferred<void>
  readonly finished: Deferred<StepEnd>
}

/** Follows a growing spool file until `finished` settles and everything written was seen. */
export type FollowSpool = (
  path: string,
  finished: Promise<unknown>,
  signal: AbortSignal,
) => AsyncIterable<Uint8Array>

/**
 * What a build has told so far. Steps run in parallel, but every watcher sees them in the order of the
 * Dockerfile, each at its own pace: output waits in the spool files, not in memory.
 */
export class BuildProgress {
  private readonly planned = deferred<readonly StepState[]>()
  private unneeded: readonly UnneededStep[] = []
  private readonly ended = deferred<void>()
  private readonly notes = new EventLog()
  private readonly early = new EventLog()
  private queuedEvent: BuildEvent | undefined
  private totalSteps = 0
  private finishedSteps = 0

  constructor(
    readonly buildId: string,
    private readonly clock: Clock,
    private readonly follow: FollowSpool,
  ) {}

  queued(position: number): void {
    this.queuedEvent = { kind: 'queued', at: this.clock.now(), position }
  }

  counts(): { readonly finishedSteps: number; readonly totalSteps: number } {
    return { finishedSteps: this.finishedSteps, totalSteps: this.totalSteps }
  }

  /** Shown at once, as long as no step has begun: what it takes to get the images that the plan is about. */
  say(line: string): void {
    this.early.add(this.lineEvent(line))
  }

  /** The plan is known; `unneeded` as they come between the steps. */
  start(steps: readonly Step[], unneeded: readonly UnneededStep[] = []): void {
    this.totalSteps = steps.length
    this.unneeded = unneeded
    this.planned.resolve(
      steps.map((step) => ({
        step,
        startedAt: undefined,
        spool: undefined,
        isFinished: false,
        started: deferred<void>(),
        finished: deferred<StepEnd>(),
      })),
    )
  }

  async stepStarted(number: number, spool?: string): Promise<void> {
    const state = await this.state(number)
    if (state === undefined || state.startedAt !== undefined) return
    state.startedAt = this.clock.now()
    state.spool = spool
    state.started.resolve()
  }

  async stepFinished(number: number, outcome: Outcome, cache?: StepEnd['cache']): Promise<void> {
    const state = await this.state(number)
    if (state === undefined || state.isFinished) return
    state.isFinished = true
    await this.stepStarted(number)
    this.finishedSteps++
    state.finished.resolve({ outcome, cache, at: this.clock.now() })
  }

  /** Shown as soon as all steps were, in the order noted. */
  note(event: BuildEvent): void {
    this.notes.add(event)
  }

  /** A line of text among what is noted. */
  noteLine(line: string): void {
    this.notes.add(this.lineEvent(line))
  }

  /** Ends every watcher after what was noted; steps that never ran are shown as skipped. */
  async end(): Promise<void> {
    this.planned.resolve([])
    for (const state of await this.planned.promise) {
      state.started.resolve()
      state.finished.resolve({ outcome: 'cancelled', at: this.clock.now() })
    }
    this.ended.resolve()
  }

  async *events(signal: AbortSignal): AsyncIterable<BuildEvent> {
    if (this.queuedEvent !== undefined) yield this.queuedEvent
    yield* this.early.until(this.planned.promise, signal)
    const states = await abortable(this.planned.promise, signal)
    yield { kind: 'started', at: this.clock.now(), buildId: this.buildId, totalSteps: states.length }
    let next = 0
    const { unneeded } = this
    for (const state of states) {
      const { number: step, stage, text } = state.step
      for (
        let other = unneeded[next];
        other !== undefined && other.before <= step;
        other = unneeded[++next]
      ) {
        yield this.unneededEvent(other)
      }
      await abortable(state.started.promise, signal)
      if (state.startedAt === undefined) {
        yield { kind: 'step-skipped', at: this.clock.now(), step, stage, text, reason: 'not-reached' }
        continue
      }
      yield { kind: 'step-started', at: state.startedAt, step, stage, text }
      if (state.spool !== undefined) {
        for await (const data of this.follow(state.spool, state.finished.promise, signal)) {
          yield { kind: 'output', at: this.clock.now(), step, data }
        }
      }
      const { outcome, at, cache: explaining } = await abortable(state.finished.promise, signal)
      const cache = explaining && (await abortable(Promise.resolve(explaining), signal))
      yield { kind: 'step-finished', at, step, outcome, ...(cache && { cache }) }
    }
    for (const other of unneeded.slice(next)) yield this.unneededEvent(other)
    yield* this.notes.until(this.ended.promise, signal)
  }

  private unneededEvent({ stage, text }: UnneededStep): BuildEvent {
    return { kind: 'step-skipped', at: this.clock.now(), step: 0, stage, text, reason: 'not-needed' }
  }

  private lineEvent(line: string): BuildEvent {
    return { kind: 'output', at: this.clock.now(), step: 0, data: Buffer.from(`${line}\n`) }
  }

  private async state(number: number): Promise<StepState | undefined> {
    const states = await this.planned.promise
    return states[number - 1]
  }
}

/** Events that any number of watchers read from the first on. */
class EventLog {
  private readonly events: BuildEvent[] = []
  private added = deferred<void>()

  add(event: BuildEvent): void {
    this.events.push(event)
    const { resolve } = this.added
    this.added = deferred<void>()
    resolve()
  }

  /** All that are there and those that come before `end` settles. */
  async *until(end: Promise<unknown>, signal: AbortSignal): AsyncIterable<BuildEvent> {
    let isOver = false
    const over = end.then(() => {
      isOver = true
    })
    for (let shown = 0; ; ) {
      const more = this.added.promise
      for (let event = this.events[shown]; event !== undefined; event = this.events[shown]) {
        shown += 1
        yield event
      }
      if (isOver) return
      await abortable(Promise.race([over, more]), signal)
    }
  }
}
