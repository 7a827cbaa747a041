import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { HeldCacheMounts } from '../../ports/cache-mounts.js'
import type { LayerId, StagingLayer } from '../../ports/layer-store.js'
import type { RuntimeMount } from '../../ports/runtime.js'
import type { RunMount, RunVertex, VertexId } from '../plan/plan.js'
import { assertNever } from './assert-never.js'
import { digestKeys } from './cache-key.js'
import { contextLayer } from './context-layer.js'
import { type BuildEnvironment, type ContextLayer, lowerLinks, type Snapshot } from './environment.js'
import { parentSnapshot } from './layer-result.js'
import { mountCopy, stackCopy } from './mount-copy.js'

/** What a RUN can read through its mounts, known before anything is locked. */
export interface ReadMounts {
  /** Of what it reads of contexts and secrets; '' when there are none. */
  readonly contentKey: string
  /** The stages and images it reads, in order. */
  readonly inputs: readonly Snapshot[]
  /** Of what it would read were they these stacks. */
  readonly inputsKey: ((stacks: readonly (readonly LayerId[])[]) => Promise<string>) | undefined
  /** What binds of contexts show. */
  readonly contextLayers: ReadonlyMap<RunMount, LayerId>
}

export interface PreparedMounts extends AsyncDisposable {
  readonly mounts: readonly RuntimeMount[]
  /** `NAME=value` of secrets given as variables. */
  readonly env: readonly string[]
}

/** Whose mounts are made, and for how long. */
export interface MountsOf {
  readonly environment: BuildEnvironment
  readonly vertex: RunVertex
  readonly results: ReadonlyMap<VertexId, Snapshot>
  readonly signal: AbortSignal
}

type CacheRunMount = Extract<RunMount, { type: 'cache' }>
type BindRunMount = Extract<RunMount, { type: 'bind' }>
type SecretRunMount = Extract<RunMount, { type: 'secret' }>
type SshRunMount = Extract<RunMount, { type: 'ssh' }>

/** Looks at everything the mounts read; contexts become layers. */
export async function readMounts(of: MountsOf): Promise<ReadMounts> {
  const { environment, vertex, results } = of
  const keys: string[] = []
  const binds: StackBind[] = []
  const contextLayers = new Map<RunMount, LayerId>()
  const bound = new Map<string, ContextLayer>()
  for (const mount of vertex.mounts) {
    if (mount.type === 'secret') {
      const content = secretOf(environment, vertex, mount)
      keys.push(content === undefined ? '' : environment.secretDigest(content))
    } else if (mount.type === 'bind') {
      const { from, source } = mount
      if (from.kind === 'vertex') binds.push({ snapshot: parentSnapshot(from.vertex, results), source })
      else {
        const place = JSON.stringify([from.context, source])
        const layer = bound.get(place) ?? (await contextLayer(of, from, source))
        bound.set(place, layer)
        const { id, contentKey } = layer
        contextLayers.set(mount, id)
        keys.push(contentKey)
      }
    }
  }
  return {
    contentKey: keys.length === 0 ? '' : digestKeys(keys),
    inputs: binds.map(({ snapshot }) => snapshot),
    inputsKey: binds.length === 0 ? undefined : (stacks) => stacksKey(of, binds, stacks),
    contextLayers,
  }
}

/** A bind of a stage or an image. */
interface StackBind {
  readonly snapshot: Snapshot
  readonly source: string
}

async function stacksKey(
  { environment, signal }: MountsOf,
  binds: readonly StackBind[],
  stacks: readonly (readonly LayerId[])[],
): Promise<string> {
  const digests = binds.map(async ({ source }, i) => {
    const params = stackCopy(environment, stacks[i] ?? [], { source, destination: source, upper: '' })
    return (await environment.ports.workers.run('digestSources', params, signal)).contentKey
  })
  return digestKeys(await Promise.all(digests))
}

/** Whether making the mounts takes the client of the build, beyond what `readMounts` has read. */
export function needsClient({ mounts }: RunVertex): boolean {
  return mounts.some(
    (mount) => mount.type === 'ssh' || (mount.type === 'cache' && mount.from?.kind === 'context'),
  )
}

/**
 * Makes everything the mounts of a RUN need, waiting for the locks of its caches; disposing gives the locks back and
 * throws scratch away.
 */
export async function prepareMounts(
  of: MountsOf,
  { contextLayers }: Pick<ReadMounts, 'contextLayers'>,
): Promise<PreparedMounts> {
  const { environment, vertex, signal } = of
  const mounts: RuntimeMount[] = []
  const env: string[] = []
  const staged: StagingLayer[] = []
  // An agent that is missing is told before anybody waits.
  const agents = await openAgents(environment, vertex)
  const cacheMounts = vertex.mounts.filter((mount): mount is CacheRunMount => mount.type === 'cache')
  const caches = await environment.ports.cacheMounts.acquire(
    environment.uid,
    cacheMounts.map((mount) => {
      const { cacheId: id, sharing, mode, uid, gid } = mount
      return { id, variant: cacheVariant(of, mount), sharing, mode, uid, gid }
    }),
    signal,
  )
  const dispose = async (): Promise<void> => {
    await Promise.all([
      caches[Symbol.asyncDispose](),
      ...staged.map((staging) => environment.ports.layers.abandon(staging)),
    ])
  }
  try {
    await seedCaches(of, cacheMounts, caches)
    for (const mount of vertex.mounts) {
      switch (mount.type) {
        case 'bind': {
          const scratch = await environment.ports.layers.stage(environment.lease)
          staged.push(scratch)
          mounts.push(bindMount(of, mount, contextLayers.get(mount), scratch))
          break
        }
        case 'cache': {
          const source = caches.mounts[cacheMounts.indexOf(mount)]?.path
          if (source === undefined) throw new Error(`cache mount ${mount.cacheId} was not acquired`)
          mounts.push({ type: 'bind', source, target: mount.target, readOnly: mount.readOnly })
          break
        }
        case 'tmpfs':
          mounts.push({ type: 'tmpfs', target: mount.target, size: mount.size })
          break
        case 'secret': {
          const content = secretOf(environment, vertex, mount)
          if (content === undefined) break
          const { target, mode, uid, gid } = mount
          if (target !== undefined) mounts.push({ type: 'file', target, content, mode, uid, gid })
          if (mount.env !== undefined) env.push(`${mount.env}=${Buffer.from(content).toString('utf8')}`)
          break
        }
        case 'ssh': {
          const agent = agents.get(mount)
          if (agent === undefined) break
          mounts.push(agent.mount)
          env.push(agent.env)
          break
        }
        default:
          assertNever(mount)
      }
    }
    for (const script of vertex.scripts) {
      const content = Buffer.from(script.content, 'utf8')
      mounts.push({ type: 'file', target: script.path, content, mode: 0o755, uid: 0, gid: 0 })
    }
    return { mounts, env, [Symbol.asyncDispose]: dispose }
  } catch (error) {
    await dispose()
    throw error
  }
}

/**
 * As BuildKit: a cache of another owner or mode, or of another beginning, is another cache. Contexts count by name, or the
 * cache of a project would be lost with every new checkout.
 */
function cacheVariant({ results }: MountsOf, { from, source, mode, uid, gid }: CacheRunMount): string {
  const isPlain = from === undefined && mode === 0o755 && uid === 0 && gid === 0
  if (isPlain) return ''
  if (from === undefined) return JSON.stringify([mode, uid, gid])
  const origin = from.kind === 'context' ? from.context : parentSnapshot(from.vertex, results).layers
  return JSON.stringify([mode, uid, gid, origin, source])
}

async function seedCaches(
  of: MountsOf,
  wanted: readonly CacheRunMount[],
  { mounts }: HeldCacheMounts,
): Promise<void> {
  const seen = new Set<HeldCacheMounts['mounts'][number]>()
  for (const [i, directory] of mounts.entries()) {
    if (!directory.fresh || seen.has(directory)) continue
    seen.add(directory)
    const mount = wanted[i]
    if (mount?.from !== undefined) {
      const params = await mountCopy(of, mount.from, {
        source: mount.source,
        destination: '',
        upper: directory.path,
      })
      await of.environment.ports.workers.run('copy', params, of.signal)
    }
    directory.seeded()
  }
}

function bindMount(
  { environment, results }: MountsOf,
  mount: BindRunMount,
  contextLayer: LayerId | undefined,
  scratch: StagingLayer,
): RuntimeMount {
  const layers =
    mount.from.kind === 'vertex'
      ? parentSnapshot(mount.from.vertex, results).layers
      : contextLayer === undefined
        ? []
        : [contextLayer]
  return {
    type: 'overlay',
    lowers: lowerLinks(environment.ports, layers),
    subpath: mount.source,
    target: mount.target,
    readOnly: !mount.readWrite,
    scratch: scratch.root,
  }
}

/** undefined when it was not given and need not be. */
function secretOf(
  environment: BuildEnvironment,
  vertex: RunVertex,
  mount: SecretRunMount,
): Uint8Array | undefined {
  const content = environment.secrets.get(mount.id)
  if (content === undefined && mount.required) {
    throw new BuilderError('ISB_ARGUMENT_INVALID', `secret "${mount.id}" is required but was not given`, {
      source: vertex.source,
      hint: `Add \`--secret id=${mount.id},src=FILE\`.`,
    })
  }
  return content
}

interface Agent {
  readonly mount: RuntimeMount
  readonly env: string
}

async function openAgents(
  environment: BuildEnvironment,
  vertex: RunVertex,
): Promise<ReadonlyMap<RunMount, Agent>> {
  const agents = new Map<RunMount, Agent>()
  for (const mount of vertex.mounts) {
    const agent = mount.type === 'ssh' ? await sshMount(environment, vertex, mount) : undefined
    if (agent !== undefined) agents.set(mount, agent)
  }
  return agents
}

async function sshMount(
  environment: BuildEnvironment,
  vertex: RunVertex,
  mount: SshRunMount,
): Promise<Agent | undefined> {
  const { mode, uid, gid } = mount
  const socket = await environment.ssh.open(mount.id, { mode, uid, gid })
  if (socket === undefined) {
    if (!mount.required) return undefined
    throw new BuilderError('ISB_ARGUMENT_INVALID', `ssh agent "${mount.id}" is required but was not given`, {
      source: vertex.source,
      hint: `Add \`--ssh ${mount.id}\`.`,
    })
  }
  const target = mount.target ?? `/run/buildkit/ssh_agent.${vertex.mounts.indexOf(mount)}`
  return {
    mount: { type: 'bind', source: socket, target, readOnly: false },
    env: `SSH_AUTH_SOCK=${target}`,
  }
}
