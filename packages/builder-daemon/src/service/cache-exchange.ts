import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { SolvedPlan } from '../core/build/commit.js'
import type { BuildProgress } from '../core/build/progress.js'
import { type CacheContent, collectCache } from '../core/cache-exchange/collect.js'
import { type CachePlace, importCaches } from '../core/cache-exchange/imports.js'
import { pushCache, registryCache } from '../core/cache-exchange/registry.js'
import type { ImportedCache } from '../core/solve/imported-cache.js'
import { createSharedWork } from '../core/transfer/shared-work.js'
import type { TransferCall } from '../core/transfer/transfer.js'
import type { Caller, CallerFiles } from '../ports/caller.js'
import type { Clock } from '../ports/clock.js'
import type { Lease } from '../ports/layer-store.js'
import type { CacheSource, CacheTarget } from '../rpc/cache-requests.js'
import type { BuildClient, BuildOptions } from '../rpc/handlers.js'
import { directoryCache, writeCacheDirectory } from './cache-directory.js'
import { destinationOf, type PushDeps } from './push-operations.js'

export interface CacheExchangeDeps {
  readonly pushes: PushDeps
  readonly files: CallerFiles
  readonly clock: Clock
}

/** A build that reads or writes caches of elsewhere. */
export interface CacheCall {
  readonly options: BuildOptions
  readonly client: BuildClient
  readonly caller: Caller
  readonly lease: Lease
  readonly progress: BuildProgress
  readonly signal: AbortSignal
}

export interface CacheExchange {
  /** Begins to read what `--cache-from` names; undefined without it. */
  open(call: CacheCall): ImportedCache | undefined
  /** Writes what `--cache-to` names, one after the other. The layers of the build are held by its lease. */
  write(plans: readonly SolvedPlan[], call: CacheCall): Promise<void>
}

export function createCacheExchange(deps: CacheExchangeDeps): CacheExchange {
  const { pushes, files, clock } = deps
  const writing = createSharedWork()

  function transferOf({ options, client, caller, lease, progress, signal }: CacheCall) {
    const access = pushes.accessFor(caller, client, options.transfer)
    const call: TransferCall = { access, lease, signal, onLog: (line) => progress.noteLine(line) }
    return { access, call }
  }

  function placeOf(source: CacheSource, call: CacheCall): CachePlace {
    if (source.kind === 'directory')
      return directoryCache(source, { ...call, files, services: pushes.services })
    const { access, call: transfer } = transferOf(call)
    const place = registryCache(source.reference, pushes.services, transfer)
    return {
      ...place,
      open: (signal) => place.open(signal).catch((error) => rethrow(access.explained(error))),
    }
  }

  async function writeOne(content: CacheContent, target: CacheTarget, call: CacheCall): Promise<void> {
    const { access, call: transfer } = transferOf(call)
    const name = target.kind === 'registry' ? target.reference : target.path
    try {
      if (target.kind === 'directory') {
        const { services } = pushes
        await writeCacheDirectory(content, target, { ...call, files, services, transfer, writing })
      } else {
        await pushCache(
          content,
          destinationOf(target.reference),
          target.compression,
          pushes.services,
          transfer,
        )
      }
    } catch (error) {
      if (call.signal.aborted) throw error
      const failure = inContext(access.explained(error), name)
      if (!target.ignoreError) throw failure
      call.progress.note({ kind: 'warning', at: clock.now(), message: messageOf(failure) })
      return
    }
    call.progress.note({ kind: 'exported', at: clock.now(), output: `cache:${name}` })
  }

  return {
    open(call) {
      const { options, lease, progress, signal } = call
      if (options.cacheFrom.length === 0) return undefined
      return importCaches(
        options.cacheFrom.map((source) => placeOf(source, call)),
        {
          ...{ lease, layers: pushes.services.layers },
          onNote: (line) => progress.noteLine(line),
          onWarning: (message) => progress.note({ kind: 'warning', at: clock.now(), message }),
        },
        signal,
      )
    },
    async write(plans, call) {
      for (const target of call.options.cacheTo) {
        await writeOne(await collectCache(plans, target.mode), target, call)
      }
    },
  }
}

function inContext(error: unknown, name: string): unknown {
  if (!isBuilderError(error)) return error
  const message = `the build cache could not be written to ${name}: ${error.message}`
  return new BuilderError(error.code, message, { ...error.details, cause: error })
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

function rethrow(error: unknown): never {
  throw error
}
