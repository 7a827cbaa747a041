import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { BuildProgress } from '../core/build/progress.js'
import type { Caller } from '../ports/caller.js'
import type { BuildSummary } from '../rpc/handlers.js'

export interface ActiveBuild {
  readonly id: string
  readonly owner: number
  /** Same Dockerfile and same fixed time: such builds exclude each other. */
  readonly entity: string | undefined
  readonly names: readonly string[]
  readonly startedAt: number
  readonly progress: BuildProgress
  readonly cancel: () => void
  /** Settles when everything the build held is released. */
  readonly ended: Promise<unknown>
  state: 'queued' | 'running'
}

/** The builds that wait or run now. */
export class ActiveBuilds {
  private readonly builds = new Map<string, ActiveBuild>()

  get count(): number {
    return this.builds.size
  }

  /** Fails with ISB_BUILD_EXISTS. */
  requireFree(id: string, entity: string | undefined): void {
    if (this.builds.has(id)) {
      throw new BuilderError('ISB_BUILD_EXISTS', `a build with the ID ${id} is already running`)
    }
    for (const build of this.builds.values()) {
      if (entity !== undefined && build.entity === entity) {
        throw new BuilderError(
          'ISB_BUILD_EXISTS',
          `the dockerfile is already on building with static build mode by buildID: ${build.id}`,
        )
      }
    }
  }

  add(build: ActiveBuild): void {
    this.builds.set(build.id, build)
  }

  remove(id: string): void {
    this.builds.delete(id)
  }

  visibleTo(caller: Caller): readonly BuildSummary[] {
    return [...this.builds.values()]
      .filter(({ owner }) => caller.uid === 0 || owner === caller.uid)
      .map(({ id, owner, state, startedAt, names, progress }) => ({
        ...{ id, owner, state, startedAt, names },
        ...progress.counts(),
      }))
  }

  /** Fails with ISB_ARGUMENT_INVALID when the caller sees no such build. */
  cancel(id: string, caller: Caller): void {
    const build = this.builds.get(id)
    if (build === undefined || (caller.uid !== 0 && build.owner !== caller.uid)) {
      throw new BuilderError('ISB_ARGUMENT_INVALID', `no build with the ID ${id} is running`)
    }
    build.cancel()
  }

  cancelAll(): void {
    for (const build of this.builds.values()) build.cancel()
  }

  /** Resolves when no build is left. */
  async drained(): Promise<void> {
    while (this.builds.size > 0) {
      await Promise.allSettled([...this.builds.values()].map(({ ended }) => ended))
    }
  }
}
