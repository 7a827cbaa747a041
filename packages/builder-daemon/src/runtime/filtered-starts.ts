import { execFile } from 'node:child_process'
import { statSync } from 'node:fs'
import { basename } from 'node:path'
import { Worker } from 'node:worker_threads'
import type { ChildReaper } from './child-reaper.js'
import { toolEnvironment } from './run-context.js'

/** A program at an absolute path, with descriptors as its 0, 1 and 2. */
export interface Program {
  readonly path: string
  readonly args: readonly string[]
  readonly env: readonly string[]
  readonly stdio: readonly [number, number, number]
}

export interface StartRequest {
  readonly id: number
  readonly program: Program
}

/** The first answer says whether the thread could put the filter on itself. */
export type StartReply =
  | { readonly type: 'ready'; readonly libseccomp: readonly number[] | undefined }
  | { readonly type: 'started'; readonly id: number; readonly pid: number }
  | { readonly type: 'failed'; readonly id: number; readonly message: string; readonly code: string }

/**
 * Of what a runtime makes in the root of a container before the command's own counts, such as the working directory. The
 * launcher's own is stricter.
 */
export const containerUmask = 0o022

/** `workerData` of the thread, which is the launcher's own program again. */
export const startThread = 'start-thread'

/** Starts a program below the filter of `inheritedProfile`. The process is the launcher's to reap. */
export type StartFiltered = (program: Program) => Promise<number>

/**
 * A filter stays on its thread for ever and on everything the thread starts, so a thread of its own starts the
 * containers that are to be filtered.
 */
export interface FilteredStarts {
  /**
   * undefined when the runtime has to be given the whole profile: there is no libseccomp, or the runtime is one that
   * might not work below the filter or not know all that it has to take away from the container.
   */
  for(runtimePath: string): Promise<StartFiltered | undefined>
}

interface FilteringThread {
  readonly libseccomp: readonly number[]
  readonly start: StartFiltered
}

/** `entry` is the launcher's program. */
export function createFilteredStarts(entry: string, reaper: ChildReaper): FilteredStarts {
  let thread: Promise<FilteringThread | undefined> | undefined
  const known = new Map<string, Promise<boolean>>()

  const ended = (): void => {
    thread = undefined
  }
  const knowsRest = (runtimePath: string, libseccomp: readonly number[]): Promise<boolean> => {
    const stat = statSync(runtimePath, { throwIfNoEntry: false })
    if (stat === undefined) return Promise.resolve(false)
    const { ino, mtimeMs } = stat
    const key = `${runtimePath} ${ino} ${mtimeMs}`
    const answer = known.get(key) ?? isAtLeast(runtimePath, libseccomp, reaper)
    known.set(key, answer)
    return answer
  }

  return {
    async for(runtimePath) {
      if (basename(runtimePath) !== 'runc') return undefined
      thread ??= openThread(entry, ended)
      const current = await thread
      if (current === undefined || !(await knowsRest(runtimePath, current.libseccomp))) return undefined
      return current.start
    },
  }
}

/** undefined when there can be no filter. */
async function openThread(entry: string, ended: () => void): Promise<FilteringThread | undefined> {
  const worker = new Worker(entry, {
    workerData: startThread,
    resourceLimits: { maxYoungGenerationSizeMb: 1, maxOldGenerationSizeMb: 32 },
  })
  const pending = new Map<number, { resolve(pid: number): void; reject(error: Error): void }>()
  let lastId = 0
  let isOver = false
  const start: StartFiltered = (program) =>
    new Promise((resolve, reject) => {
      if (isOver) {
        reject(new Error('the thread that starts containers has ended'))
        return
      }
      lastId += 1
      pending.set(lastId, { resolve, reject })
      worker.postMessage({ id: lastId, program } satisfies StartRequest)
    })
  return await new Promise((resolve) => {
    worker.on('message', (reply: StartReply) => {
      if (reply.type === 'ready') {
        const { libseccomp } = reply
        resolve(libseccomp === undefined ? undefined : { libseccomp, start })
        return
      }
      const request = pending.get(reply.id)
      pending.delete(reply.id)
      if (reply.type === 'started') request?.resolve(reply.pid)
      else request?.reject(Object.assign(new Error(reply.message), { code: reply.code }))
    })
    let cause: unknown
    worker.on('error', (error) => {
      cause = error
    })
    worker.on('exit', () => {
      isOver = true
      ended()
      for (const { reject } of pending.values()) {
        reject(new Error('the thread that starts containers ended unexpectedly', { cause }))
      }
      pending.clear()
      resolve(undefined)
    })
    worker.unref()
  })
}

/** A name that the runtime's libseccomp does not know would silently be missing in the container's own filter. */
async function isAtLeast(
  runtimePath: string,
  version: readonly number[],
  reaper: ChildReaper,
): Promise<boolean> {
  const text = await new Promise<string>((resolve) => {
    const child = execFile(
      runtimePath,
      ['--version'],
      { env: toolEnvironment, timeout: 5000 },
      (error, out) => resolve(error === null ? out : ''),
    )
    reaper.own(child)
  })
  const found = /^libseccomp: (\d+)\.(\d+)\.(\d+)$/m.exec(text)
  if (found === null) return false
  for (const [at, wanted] of version.entries()) {
    const part = Number(found[at + 1])
    if (part !== wanted) return part > wanted
  }
  return true
}
