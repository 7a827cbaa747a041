import { closeSync, createWriteStream, fstatSync, openSync } from 'node:fs'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { parseIgnoreFile } from '@isula-build/shared/dockerfile/ignore.js'
import { type ContextSource, createContextProvider } from '../context/context-provider.js'
import type { Caller, CallerFiles, ContextHandle } from '../ports/caller.js'
import type { ContextProvider } from '../ports/contexts.js'
import type { LayerStore, Lease } from '../ports/layer-store.js'
import type { LayerWorkers } from '../ports/layer-worker.js'
import type { BuildClient, BuildOptions, ContextOrigin } from '../rpc/handlers.js'

export interface ContextDeps {
  readonly files: CallerFiles
  readonly layers: LayerStore
  readonly workers: LayerWorkers
  /** What contexts held lies below, by the uid of whose they are. */
  readonly statTables: string
}

interface ContextCall {
  readonly options: BuildOptions
  readonly client: BuildClient
  readonly caller: Caller
  readonly lease: Lease
}

/** The contexts of one build: directories the daemon shares with its client, streams where it does not. */
export function createContextOpener(deps: ContextDeps): (call: ContextCall) => ContextProvider {
  return (call) => {
    const { options, caller } = call
    const sources = new Map<string, ContextSource>()
    const add = (name: string, origin: ContextOrigin): void => {
      const source = sourceOf(deps, call, name, origin)
      if (source !== undefined) sources.set(name, source)
    }
    add('', options.context)
    for (const [name, origin] of Object.entries(options.namedContexts)) add(name, origin)
    const { ignoreFile } = options
    return createContextProvider({
      caller,
      files: deps.files,
      sources,
      statTables: join(deps.statTables, String(caller.uid)),
      ignore:
        ignoreFile === undefined
          ? undefined
          : {
              lines: parseIgnoreFile(Buffer.from(ignoreFile.content).toString('utf8')),
              file: ignoreFile.name,
            },
      dockerfile: options.dockerfile.name,
    })
  }
}

function sourceOf(
  deps: ContextDeps,
  call: ContextCall,
  name: string,
  origin: ContextOrigin,
): ContextSource | undefined {
  switch (origin.kind) {
    case 'image':
      return undefined
    case 'stream':
      return { kind: 'unpacked', open: (signal) => unpack(deps, call, name, signal) }
    case 'directory': {
      const { path, expected } = origin
      if (expected === undefined) return { kind: 'path', path }
      return { kind: 'checked', path, expected, otherwise: (signal) => unpack(deps, call, name, signal) }
    }
  }
}

/** Unpacks a streamed tar into a staging directory, which goes with the handle. */
async function unpack(
  deps: ContextDeps,
  { client, lease }: ContextCall,
  name: string,
  signal: AbortSignal,
): Promise<ContextHandle> {
  const { layers, workers } = deps
  const staging = await layers.stage(lease)
  try {
    const file = join(staging.root, 'context.tar')
    await pipeline(client.streamContext(name), createWriteStream(file, { flags: 'wx', mode: 0o600 }), {
      signal,
    })
    const archive = openSync(file, 'r')
    try {
      await workers.run('extract', { fd: archive, directory: staging.upper }, signal)
    } finally {
      closeSync(archive)
    }
    const fd = openSync(staging.upper, 'r')
    const { dev, ino } = fstatSync(fd, { bigint: true })
    return {
      access: 'direct',
      fd,
      path: 'the context that was sent',
      identity: { dev, ino },
      helperOf: undefined,
      async [Symbol.asyncDispose]() {
        closeSync(fd)
        await layers.abandon(staging)
      },
    }
  } catch (error) {
    await layers.abandon(staging)
    throw error
  }
}
