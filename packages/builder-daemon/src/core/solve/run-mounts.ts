import { createHash } from 'node:crypto'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { CacheMount } from '../../ports/cache-mounts.js'
import type { LayerId, StagingLayer } from '../../ports/layer-store.js'
import type { CopyParams } from '../../ports/layer-worker.js'
import type { RuntimeMount } from '../../ports/runtime.js'
import type { MountSource, RunMount, RunVertex, VertexId } from '../plan/plan.js'
import { assertNever } from './assert-never.js'
import { type BuildEnvironment, lowerDirectories, lowerLinks, type Snapshot } from './environment.js'
import { parentSnapshot } from './layer-result.js'

export interface PreparedMounts extends AsyncDisposable {
  readonly mounts: readonly RuntimeMount[]
  /** `NAME=value` of secrets given as variables. */
  readonly env: readonly string[]
  /** One cache key per mount, in order: what the command can read through it. */
  readonly keys: readonly string[]
}

type CacheRunMount = Extract<RunMount, { type: 'cache' }>
type BindRunMount = Extract<RunMount, { type: 'bind' }>
type SecretRunMount = Extract<RunMount, { type: 'secret' }>
type SshRunMount = Extract<RunMount, { type: 'ssh' }>

/** Makes everything the mounts of a RUN need; disposing releases locks and throws scratch away. */
export async function prepareMounts(
  environment: BuildEnvironment,
  vertex: RunVertex,
  results: ReadonlyMap<VertexId, Snapshot>,
  signal: AbortSignal,
): Promise<PreparedMounts> {
  const held: CacheMount[] = []
  const staged: StagingLayer[] = []
  const dispose = async (): Promise<void> => {
    await Promise.all([
      ...held.map((mount) => mount.release()),
      ...staged.map((staging) => environment.ports.layers.abandon(staging)),
    ])
  }
  try {
    const maker: Maker = { environment, vertex, results, signal, held, staged }
    const caches = await acquireCaches(maker)
    const mounts: RuntimeMount[] = []
    const env: string[] = []
    const keys: string[] = []
    for (const mount of vertex.mounts) {
      switch (mount.type) {
        case 'bind': {
          const made = await bindMount(maker, mount)
          mounts.push(made.mount)
          keys.push(made.key)
          break
        }
        case 'cache': {
          const directory = caches.get(mount)
          if (directory === undefined) throw new Error(`cache mount ${mount.cacheId} was not acquired`)
          mounts.push({
            type: 'bind',
            source: directory.path,
            target: mount.target,
            readOnly: mount.readOnly,
          })
          keys.push('')
          break
        }
        case 'tmpfs':
          mounts.push({ type: 'tmpfs', target: mount.target, size: mount.size })
          keys.push('')
          break
        case 'secret': {
          const made = secretMount(environment, vertex, mount)
          if (made?.mount !== undefined) mounts.push(made.mount)
          if (made?.env !== undefined) env.push(made.env)
          keys.push(made?.key ?? '')
          break
        }
        case 'ssh': {
          const made = await sshMount(environment, vertex, mount)
          if (made !== undefined) {
            mounts.push(made.mount)
            env.push(made.env)
          }
          keys.push('')
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
    return { mounts, env, keys, [Symbol.asyncDispose]: dispose }
  } catch (error) {
    await dispose()
    throw error
  }
}

interface Maker {
  readonly environment: BuildEnvironment
  readonly vertex: RunVertex
  readonly results: ReadonlyMap<VertexId, Snapshot>
  readonly signal: AbortSignal
  readonly held: CacheMount[]
  readonly staged: StagingLayer[]
}

/** Sorted by id, so that two RUNs that want the same locks never wait for each other. */
async function acquireCaches(maker: Maker): Promise<ReadonlyMap<RunMount, CacheMount>> {
  const { environment, vertex, signal, held } = maker
  const wanted = vertex.mounts
    .filter((mount): mount is CacheRunMount => mount.type === 'cache')
    .sort((a, b) => (a.cacheId < b.cacheId ? -1 : a.cacheId > b.cacheId ? 1 : 0))
  const acquired = new Map<RunMount, CacheMount>()
  const byId = new Map<string, CacheMount>()
  for (const mount of wanted) {
    let directory = byId.get(mount.cacheId)
    if (directory === undefined) {
      const { cacheId: id, sharing, mode, uid, gid } = mount
      const request = { id, sharing, mode, uid, gid }
      directory = await environment.ports.cacheMounts.acquire(environment.uid, request, signal)
      held.push(directory)
      byId.set(mount.cacheId, directory)
      if (directory.fresh && mount.from !== undefined) {
        await environment.ports.workers.run(
          'copy',
          await copyOf(maker, mount.from, mount.source, '', directory.path),
          signal,
        )
      }
      if (directory.fresh) directory.seeded()
    }
    acquired.set(mount, directory)
  }
  return acquired
}

async function bindMount(maker: Maker, mount: BindRunMount): Promise<{ mount: RuntimeMount; key: string }> {
  const { environment, results, staged } = maker
  const { ports } = environment
  const scratch = await ports.layers.stage(environment.lease)
  staged.push(scratch)
  const overlay = (lowers: readonly string[]): RuntimeMount => ({
    type: 'overlay',
    lowers,
    subpath: mount.source,
    target: mount.target,
    readOnly: !mount.readWrite,
    scratch: scratch.root,
  })
  if (mount.from.kind === 'vertex') {
    const snapshot = parentSnapshot(mount.from.vertex, results)
    return { mount: overlay(lowerLinks(ports, snapshot.layers)), key: snapshot.key }
  }
  const { id, key } = await contextLayer(maker, mount)
  return { mount: overlay(lowerLinks(ports, [id])), key }
}

/** What a bind of a context shows, as a layer: filtered by the ignore file, owned by root, immutable. */
async function contextLayer(maker: Maker, mount: BindRunMount): Promise<{ id: LayerId; key: string }> {
  const { environment, signal } = maker
  const { ports, uid } = environment
  const staging = await ports.layers.stage(environment.lease)
  try {
    const params = await copyOf(maker, mount.from, mount.source, mount.source, staging.upper)
    const { contentKey } = await ports.workers.run('digestSources', params, signal)
    const staticKey = createHash('sha256').update(`context-bind\0${mount.source}`).digest('hex')
    for (const record of environment.noCache ? [] : await ports.cache.lookup(uid, staticKey)) {
      if (record.contentKey !== contentKey || record.layer === null) continue
      const [held] = await ports.layers.hold([record.layer], environment.lease)
      if (held === undefined) continue
      await ports.layers.abandon(staging)
      return { id: held.id, key: contentKey }
    }
    const copied = await ports.workers.run('copy', params, signal)
    const record = { diffId: copied.diffId, tarSize: copied.tarSize, keepsHeaders: false, parentKey: null }
    const published = await ports.layers.publish(staging, record, environment.lease)
    const parts = [{ name: 'bind', value: mount.source }]
    await ports.cache.store(uid, { staticKey, contentKey: copied.contentKey, layer: published.id }, parts)
    return { id: published.id, key: copied.contentKey }
  } catch (error) {
    await ports.layers.abandon(staging)
    throw error
  }
}

async function copyOf(
  maker: Maker,
  from: MountSource,
  source: string,
  destination: string,
  upper: string,
): Promise<CopyParams> {
  const { environment, results, signal } = maker
  const tree =
    from.kind === 'context'
      ? await environment.contexts.get(from.context, signal)
      : {
          root: {
            access: 'layers' as const,
            lowers: lowerDirectories(environment.ports, parentSnapshot(from.vertex, results).layers),
          },
          ignore: [],
          ignoreFile: undefined,
        }
  return {
    upper,
    lowers: [],
    instruction: 'COPY',
    inputs: [
      {
        kind: 'tree',
        root: tree.root,
        pattern: source === '' ? '.' : source,
        unpack: false,
        ignore: tree.ignore,
        ignoreFile: tree.ignoreFile,
        isContext: from.kind === 'context',
      },
    ],
    destination,
    intoDirectory: destination === '',
    chown: undefined,
    chmod: undefined,
    link: false,
    parents: false,
    excludes: [],
    fixedTime: undefined,
  }
}

function secretMount(
  environment: BuildEnvironment,
  vertex: RunVertex,
  mount: SecretRunMount,
): { mount?: RuntimeMount; env?: string; key: string } | undefined {
  const content = environment.secrets.get(mount.id)
  if (content === undefined) {
    if (!mount.required) return undefined
    throw new BuilderError('ISB_ARGUMENT_INVALID', `secret "${mount.id}" is required but was not given`, {
      source: vertex.source,
      hint: `Add \`--secret id=${mount.id},src=FILE\`.`,
    })
  }
  const { mode, uid, gid } = mount
  return {
    ...(mount.target === undefined
      ? {}
      : { mount: { type: 'file', target: mount.target, content, mode, uid, gid } as const }),
    ...(mount.env === undefined ? {} : { env: `${mount.env}=${Buffer.from(content).toString('utf8')}` }),
    key: environment.secretDigest(content),
  }
}

async function sshMount(
  environment: BuildEnvironment,
  vertex: RunVertex,
  mount: SshRunMount,
): Promise<{ mount: RuntimeMount; env: string } | undefined> {
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
