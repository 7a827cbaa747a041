import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

/**
 * Brings together the two calls of one build, whichever comes first: the host builds once a watcher is
 * there, and watchers get the build once it runs.
 */
export interface Rendezvous<T> {
  /** Fails with ISB_BUILD_EXISTS while the key has a host. */
  host(key: string): Host<T>
  watch(key: string): Watcher<T>
}

export interface Host<T> {
  /** Resolves when there is a watcher. */
  company(signal: AbortSignal): Promise<void>
  present(build: T): void
  /** Resolves when every watcher has left, at the latest after `ms`. */
  farewell(ms: number): Promise<void>
  /** Watchers that still wait get nothing. */
  leave(): void
}

export interface Watcher<T> {
  /** undefined when the host left without presenting a build. */
  build(signal: AbortSignal): Promise<T | undefined>
  leave(): void
}

interface Meeting<T> {
  hosted: boolean
  watchers: number
  readonly arrived: Gate<void>
  readonly presented: Gate<T | undefined>
  readonly emptied: Set<() => void>
}

export function createRendezvous<T>(): Rendezvous<T> {
  const meetings = new Map<string, Meeting<T>>()

  const meeting = (key: string): Meeting<T> => {
    const known = meetings.get(key)
    if (known !== undefined) return known
    const made: Meeting<T> = {
      hosted: false,
      watchers: 0,
      arrived: createGate(),
      presented: createGate(),
      emptied: new Set(),
    }
    meetings.set(key, made)
    return made
  }

  return {
    host(key) {
      const own = meeting(key)
      if (own.hosted) throw new BuilderError('ISB_BUILD_EXISTS', `a build with ID ${key} is under way`)
      own.hosted = true
      return {
        company: (signal) => abortable(own.arrived.opened, signal),
        present: (build) => own.presented.open(build),
        farewell: (ms) => emptied(own, ms),
        leave() {
          own.presented.open(undefined)
          // Whoever comes later waits for another build of that ID.
          if (meetings.get(key) === own) meetings.delete(key)
        },
      }
    },
    watch(key) {
      const own = meeting(key)
      own.watchers++
      own.arrived.open()
      return {
        build: (signal) => abortable(own.presented.opened, signal),
        leave() {
          own.watchers--
          if (own.watchers > 0) return
          for (const wake of own.emptied) wake()
          if (!own.hosted && meetings.get(key) === own) meetings.delete(key)
        },
      }
    },
  }
}

async function emptied(meeting: Meeting<unknown>, ms: number): Promise<void> {
  if (meeting.watchers === 0) return
  await new Promise<void>((resolve) => {
    const timer = setTimeout(done, ms)
    function done(): void {
      clearTimeout(timer)
      meeting.emptied.delete(done)
      resolve()
    }
    meeting.emptied.add(done)
  })
}

interface Gate<T> {
  readonly opened: Promise<T>
  open(value: T): void
}

function createGate<T>(): Gate<T> {
  let open: (value: T) => void = () => undefined
  const opened = new Promise<T>((resolve) => {
    open = resolve
  })
  return { opened, open }
}

/** Waits, but not longer than the signal allows. */
export function abortable<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason)
    if (signal.aborted) onAbort()
    signal.addEventListener('abort', onAbort, { once: true })
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort))
  })
}
