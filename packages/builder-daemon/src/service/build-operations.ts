import { createHash, randomBytes } from 'node:crypto'
import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { deferred } from '../core/build/deferred.js'
import { BuildProgress, type FollowSpool } from '../core/build/progress.js'
import { localNames } from '../core/images/names.js'
import type { BuildQueue } from '../core/queue/build-queue.js'
import type { Caller } from '../ports/caller.js'
import type { Clock } from '../ports/clock.js'
import type { Logger } from '../ports/logger.js'
import type { BuildClient, BuildOptions, BuildOutcome, RunningBuild } from '../rpc/handlers.js'
import { type ActiveBuild, ActiveBuilds } from './active-builds.js'
import { createSpools } from './build-spools.js'
import { type PrivilegePolicy, requireCapabilities, requirePrivilege } from './privileges.js'

/** What one admitted build does; see `build-session.ts`. */
export type RunSession = (session: {
  readonly id: string
  readonly options: BuildOptions
  readonly names: readonly string[]
  readonly client: BuildClient
  readonly caller: Caller
  readonly progress: BuildProgress
  /** Directory for the output of its RUNs. */
  readonly spools: string
  readonly signal: AbortSignal
}) => Promise<BuildOutcome>

export interface BuildDeps {
  readonly queue: BuildQueue
  readonly clock: Clock
  readonly log: Logger
  readonly privileges: PrivilegePolicy
  readonly follow: FollowSpool
  readonly run: RunSession
  /** Hears of every build that is over. */
  readonly onEnd: () => void
  /** RUN output of a build lies in a directory of its own below this one. */
  readonly spoolRoot: string
}

export interface BuildOperations {
  readonly active: ActiveBuilds
  start(options: BuildOptions, client: BuildClient, caller: Caller, signal: AbortSignal): RunningBuild
}

const buildId = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/

export function createBuildOperations(deps: BuildDeps): BuildOperations {
  const active = new ActiveBuilds()

  function start(
    options: BuildOptions,
    client: BuildClient,
    caller: Caller,
    signal: AbortSignal,
  ): RunningBuild {
    requireAllowed(options, caller, deps.privileges)
    const id = options.id ?? randomBytes(6).toString('hex')
    if (!buildId.test(id)) {
      throw new BuilderError(
        'ISB_ARGUMENT_INVALID',
        `build ID ${JSON.stringify(id.slice(0, 80))} is malformed`,
      )
    }
    const names = localNames([...options.outputs.flatMap(({ name }) => name ?? []), ...options.tags])
    const entity = entityOf(options)
    active.requireFree(id, entity)

    const cancel = new AbortController()
    const stop = AbortSignal.any([signal, cancel.signal])
    const progress = new BuildProgress(id, deps.clock, deps.follow)
    const ended = deferred<BuildOutcome>()
    const build: ActiveBuild = {
      ...{ id, entity, names, progress, owner: caller.uid, startedAt: deps.clock.now() },
      cancel: () => cancel.abort(),
      ended: ended.promise,
      state: 'queued',
    }
    active.add(build)
    const spools = createSpools(deps.spoolRoot)
    const session = { id, options, names, client, caller, progress, spools: spools.directory, signal: stop }
    void admit(build, session).then(ended.resolve, ended.reject).finally(spools.ended).finally(deps.onEnd)
    const events = (watching: AbortSignal) => spools.watch(progress.events(watching))
    return { id, events, result: ended.promise }
  }

  async function admit(build: ActiveBuild, session: Parameters<RunSession>[0]): Promise<BuildOutcome> {
    const { progress, caller, signal } = session
    const { log, clock } = deps
    try {
      using _slot = await deps.queue.acquire(caller.uid, signal, (position) => progress.queued(position))
      build.state = 'running'
      log.info('build.started', { build: build.id, uid: caller.uid, pid: caller.pid })
      const outcome = await deps.run(session)
      progress.note({ kind: 'finished', at: clock.now(), ...outcome })
      log.info('build.finished', { build: build.id, image: outcome.imageId })
      return outcome
    } catch (error) {
      const shown = signal.aborted && !isBuilderError(error) ? cancelled() : error
      const code = isBuilderError(shown) ? shown.code : 'ISB_INTERNAL'
      const message = isBuilderError(shown) ? shown.message : 'internal error'
      progress.note({ kind: 'failed', at: clock.now(), code, message })
      log.info('build.failed', { build: build.id, code, error: shown })
      throw shown
    } finally {
      await progress.end()
      active.remove(build.id)
    }
  }

  return { active, start }
}

function cancelled(): BuilderError {
  return new BuilderError('ISB_CANCELLED', 'the build was cancelled')
}

function requireAllowed(options: BuildOptions, caller: Caller, policy: PrivilegePolicy): void {
  requireCapabilities(options.capAdd)
  if (options.capAdd.length > 0) requirePrivilege(caller, policy, '--cap-add')
  if (options.isolation === 'chroot') requirePrivilege(caller, policy, '--isolation chroot')
}

/** As the original names it: digest of the Dockerfile and the time. */
function entityOf(options: BuildOptions): string | undefined {
  if (options.fixedTime === undefined) return undefined
  const dockerfile = createHash('sha256').update(options.dockerfile.content).digest('hex')
  return `${dockerfile}:${options.fixedTime}`
}
