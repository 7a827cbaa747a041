import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { BuildEvent } from '@isula-build/shared/progress/events.js'
import type { Caller } from '../ports/caller.js'
import type { ImageSummary } from '../ports/image-store.js'
import type { PruneEvent } from './cache-requests.js'
import { createChannel } from './channel.js'
import type {
  BuildClient,
  BuilderCore,
  BuildOptions,
  CredentialClient,
  RemoveEvent,
  StoreEvent,
  TransferEvent,
} from './handlers.js'

export interface FakeCore extends BuilderCore {
  /** What startBuild was called with. */
  readonly started: {
    readonly options: BuildOptions
    readonly caller: Caller
    readonly signal: AbortSignal
  }[]
  /** Method names with arguments, in order. */
  readonly calls: unknown[]
  /** How many data events saves have made. */
  savedChunks(): number
}

const imageId = 'a'.repeat(64)
const digest = `sha256:${'d'.repeat(64)}`

/**
 * A core for tests of the edges. It keeps nothing on disk. A transfer obeys its reference, words between `+`:
 * `ask-HOST` (asks for a login, says it), `wait` (for the end), `denied`. A build obeys its Dockerfile line by line:
 * `SAY text`, `WARN text`, `CONTEXT name` (streams it), `WRITE index text`, `AGENT id text` (sends, says
 * the answer), `LOGIN host repository` (asks for it), `SECRET id`, `WAIT` (for the end), `FAIL text`, `CRASH text`.
 */
export function createFakeCore(
  images: readonly ImageSummary[] = [],
  options: { readonly experimental?: boolean } = {},
): FakeCore {
  const started: FakeCore['started'] = []
  const calls: unknown[] = []
  let saved = 0

  async function* store(what: string, source: unknown): AsyncGenerator<StoreEvent> {
    calls.push([what, source])
    yield { kind: 'log', line: `${what} ${await bytesOf(source)}` }
    yield { kind: 'stored', imageId, names: ['a:1'] }
  }

  async function* transfer(
    what: string,
    request: { readonly reference: string },
    client: CredentialClient,
    signal: AbortSignal,
  ): AsyncGenerator<TransferEvent> {
    calls.push([what, request])
    yield { kind: 'log', line: `${what} ${request.reference}` }
    for (const word of request.reference.split('+')) {
      if (word.startsWith('ask-')) {
        const known = await client.credentials(word.slice(4), 'r', word.slice(4))
        yield { kind: 'log', line: `login ${JSON.stringify(known) ?? 'none'}` }
      } else if (word === 'wait') await aborted(signal)
      else if (word === 'denied') throw new BuilderError('ISB_REGISTRY_DENIED', 'the registry says no')
    }
    yield { kind: 'progress', digest, done: 1, total: 2 }
    if (what === 'pull') yield { kind: 'stored', imageId, names: ['a:1'], digest }
    else yield { kind: 'pushed', reference: request.reference, digest, size: 3 }
  }

  return {
    started,
    calls,
    savedChunks: () => saved,
    startBuild(build, client, caller, signal) {
      started.push({ options: build, caller, signal })
      const events = createChannel<BuildEvent>(1000)
      const text = Buffer.from(build.dockerfile.content).toString('utf8')
      if (text === 'REFUSE') throw new BuilderError('ISB_TOO_MANY_BUILDS', 'too many builds')
      const result = obey(text.split('\n'), { options: build, client, events: events.push, signal })
      result.then(
        () => events.close(),
        () => events.close(),
      )
      return Promise.resolve({ id: build.id ?? 'chosen', events: () => events, result })
    },
    images: () => Promise.resolve(images),
    tag(image, name) {
      calls.push(['tag', image, name])
      if (image === 'missing') throw new BuilderError('ISB_IMAGE_NOT_FOUND', 'no image "missing"')
      return Promise.resolve()
    },
    async *remove(request): AsyncGenerator<RemoveEvent> {
      calls.push(['remove', request])
      yield { kind: 'untagged', name: 'a:1' }
      yield { kind: 'layer-removed', diffId: `sha256:${'b'.repeat(64)}` }
      yield { kind: 'image-removed', reference: 'a' }
      if (request.kind !== 'named' || !request.references.includes('missing')) return
      const error = new BuilderError('ISB_IMAGE_NOT_FOUND', 'no image "missing"')
      yield { kind: 'failed', reference: 'missing', error }
      yield {
        kind: 'failed',
        reference: 'used',
        error: new BuilderError('ISB_IMAGE_IN_USE', 'a build uses it'),
      }
    },
    import: (request) => store('import', request.source),
    load: (request) => store('load', request.kind === 'archive' ? request.source : request),
    async *save(request) {
      calls.push(['save', request])
      yield { kind: 'log', line: 'saving' }
      if (request.destination.kind !== 'stream') return
      for (let index = 0; index < 40; index++) {
        saved++
        yield { kind: 'data', chunk: Buffer.alloc(3 << 18, index) }
      }
    },
    pull: (request, client, _, signal) => transfer('pull', request, client, signal),
    push: (request, client, _, signal) =>
      transfer('push', { ...request, reference: request.image }, client, signal),
    login(request) {
      calls.push(['login', request])
      if (request.server !== 'denied') return Promise.resolve()
      return Promise.reject(new BuilderError('ISB_REGISTRY_DENIED', 'the registry says no'))
    },
    logout(request) {
      calls.push(['logout', request])
      return Promise.resolve()
    },
    async createList(request, client) {
      calls.push(['createList', request])
      if (request.images.includes('ask')) await client.credentials('h', 'r')
      return imageId
    },
    annotateList(request) {
      calls.push(['annotateList', request])
      return Promise.resolve()
    },
    inspectList: (name) => Promise.resolve(Buffer.from(JSON.stringify({ name }))),
    pushList: (request, client, _, signal) =>
      transfer('pushList', { ...request, reference: request.list }, client, signal),
    removeList(name) {
      calls.push(['removeList', name])
      return Promise.resolve()
    },
    info: (caller) =>
      Promise.resolve({
        memTotal: 1,
        memFree: 2,
        swapTotal: 3,
        swapFree: 4,
        storageDriver: 'overlay',
        backingFilesystem: 'extfs',
        searchRegistries: ['s'],
        insecureRegistries: ['i'],
        blockedRegistries: ['b'],
        dataRoot: JSON.stringify(caller),
        runRoot: '/run',
        runtime: 'runc',
        builds: 5,
        threads: 6,
        experimental: options.experimental ?? false,
        memory: { system: 1, heapSystem: 2, heapAllocated: 3, heapInUse: 4, heapIdle: 5, heapReleased: 6 },
      }),
    version: () => ({
      version: '1.0',
      runtimeVersion: 'node v20',
      gitCommit: 'abc',
      builtAt: new Date(2021, 2, 3, 4, 5, 6).getTime(),
      platform: 'linux/amd64',
    }),
    builds: (caller) =>
      Promise.resolve([
        {
          id: 'b1',
          owner: caller.uid,
          state: 'queued',
          startedAt: 7,
          finishedSteps: 1,
          totalSteps: 2,
          names: ['a:1'],
        },
      ]),
    cancelBuild(id) {
      calls.push(['cancel', id])
      return Promise.resolve()
    },
    async *prune(request): AsyncGenerator<PruneEvent> {
      calls.push(['prune', request])
      const common = { owners: [0, 7], bytes: 2, usedAt: 1000 }
      yield { kind: 'removed', entry: { kind: 'layer', key: 'l', name: 'l', ...common } }
      yield { kind: 'removed', entry: { kind: 'mount', key: '7/x', name: 'm', ...common } }
      yield { kind: 'summary', freedBytes: 9, records: 3, downloads: 5 }
    },
    decrypt: (hex) => Buffer.from(hex, 'hex').toString('utf8'),
  }
}

interface Scene {
  readonly options: BuildOptions
  readonly client: BuildClient
  readonly events: (event: BuildEvent) => Promise<boolean>
  readonly signal: AbortSignal
}

async function obey(lines: readonly string[], scene: Scene) {
  const { options, client, events, signal } = scene
  const say = (text: string | Uint8Array): Promise<boolean> =>
    events({ kind: 'output', at: 0, step: 1, data: Buffer.from(text) })
  for (const [index, line] of lines.entries()) {
    const [, verb, first = '', rest = ''] = /^(\S*) ?(\S*) ?(.*)$/s.exec(line) ?? []
    await events({ kind: 'step-started', at: 0, step: index + 1, stage: '0', text: line })
    if (verb === 'SAY') await say(Buffer.from(line.slice(4), 'latin1'))
    else if (verb === 'WARN') await events({ kind: 'warning', at: 0, message: line.slice(5) })
    else if (verb === 'CONTEXT') await say(`<${await bytesOf({ chunks: client.streamContext(first) })}>`)
    else if (verb === 'SECRET') await say(options.secrets.get(first) ?? 'none')
    else if (verb === 'WRITE') {
      const output = client.openOutput(Number(first))
      await output.write(Buffer.from(rest))
      await output.finish()
    } else if (verb === 'AGENT') {
      const agent = client.openAgent(first)
      await agent.send(Buffer.from(rest))
      for await (const data of agent.received) await say(data)
      await agent.close()
    } else if (verb === 'LOGIN') {
      await say(JSON.stringify(await client.credentials(first, rest, first)) ?? 'none')
    } else if (verb === 'WAIT') await aborted(signal)
    else if (verb === 'FAIL') {
      throw new BuilderError('ISB_STEP_FAILED', line.slice(5), { exitCode: 3, logTail: ['last words'] })
    } else if (verb === 'CRASH') throw new Error(line.slice(6))
    await events({ kind: 'step-finished', at: 0, step: index + 1, outcome: 'done' })
  }
  await events({ kind: 'stage-committed', at: 0, stage: 0, imageId })
  await events({ kind: 'finished', at: 0, imageId, names: options.tags })
  return { imageId, names: options.tags }
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason)
    signal.addEventListener('abort', () => reject(signal.reason))
  })
}

async function bytesOf(source: unknown): Promise<string> {
  if (typeof source !== 'object' || source === null || !('chunks' in source)) return JSON.stringify(source)
  const chunks: Uint8Array[] = []
  for await (const chunk of source.chunks as AsyncIterable<Uint8Array>) chunks.push(chunk)
  const all = Buffer.concat(chunks)
  return all.length > 1000 ? `${all.length} bytes` : all.toString('utf8')
}
