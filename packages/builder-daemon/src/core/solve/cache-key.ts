import { createHash } from 'node:crypto'
import { formatPlatform } from '@isula-build/shared/oci/platform.js'
import { redactUrls } from '@isula-build/shared/text/redact.js'
import type { CachePart } from '../../ports/cache-index.js'
import type {
  CopyInput,
  CopyVertex,
  ImageVertex,
  RunMount,
  RunVertex,
  Vertex,
  WorkdirVertex,
} from '../plan/plan.js'

/** What a shape depends on besides the vertex itself. */
export interface ShapeContext {
  /** Seconds since the epoch. */
  readonly fixedTime?: number | undefined
  /** Added to the default ones; RUN only, as the three below. */
  readonly capabilities?: readonly string[] | undefined
  readonly isolation?: 'oci' | 'chroot' | undefined
  /** What `--network=default` means in this build. */
  readonly network?: 'host' | 'none' | undefined
}

/** A vertex that does something. */
export type WorkVertex = Exclude<Vertex, ImageVertex>

export interface Shape {
  /** 64 hex digits. */
  readonly shape: string
  readonly parts: readonly CachePart[]
}

/** Changes with the meaning of any part, so that records of another version never match. */
const version = '3'

/**
 * What a vertex does, as named parts and their digest, whatever it stands on. Two vertices of one shape make
 * the same change to the same state with the same content. Neither the config nor the Dockerfile's spelling
 * counts, only what reaches the file system; proxy settings and the values of secrets do not.
 */
export function shapeOf(vertex: WorkVertex, context: ShapeContext = {}): Shape {
  const parts: CachePart[] = [
    part('version', version),
    part('kind', vertex.kind),
    part('platform', formatPlatform(vertex.platform)),
    ...vertexParts(vertex, context),
    part('fixed time', context.fixedTime ?? null),
  ]
  return { shape: digestParts(parts), parts }
}

function vertexParts(vertex: WorkVertex, context: ShapeContext): readonly CachePart[] {
  switch (vertex.kind) {
    case 'workdir':
      return workdirParts(vertex)
    case 'copy':
      return copyParts(vertex)
    case 'run':
      return runParts(vertex, context)
  }
}

function workdirParts({ path, user }: WorkdirVertex): readonly CachePart[] {
  return [part('path', path), part('user', user)]
}

function copyParts(vertex: CopyVertex): readonly CachePart[] {
  const { instruction, inputs, destination, intoDirectory, chown, chmod, link, parents, excludes } = vertex
  return [
    part('instruction', instruction),
    ...inputs.map((input, i) => part(`source ${i + 1}`, sourceOf(input))),
    part('destination', [destination, intoDirectory]),
    ...(chown === undefined ? [] : [part('chown', chown)]),
    ...(chmod === undefined ? [] : [part('chmod', chmod)]),
    part('link', link),
    part('parents', parents),
    part('excludes', excludes),
  ]
}

function sourceOf(input: CopyInput): unknown {
  switch (input.kind) {
    case 'context':
      return ['context', input.context, input.pattern, input.unpack]
    case 'vertex':
      return ['stage', input.vertex === null, input.pattern, input.unpack]
    case 'inline':
      return ['inline', input.name, input.content]
    case 'url':
      // Records are kept on disk: who fetched it is no part of what was fetched.
      return ['url', redactUrls(input.url), input.checksum ?? null, input.unpack]
  }
}

function runParts(vertex: RunVertex, context: ShapeContext): readonly CachePart[] {
  const { args, scripts, env, user, cwd, mounts, network, security } = vertex
  return [
    part('command', args),
    ...scripts.map((script) => part(`script ${script.path}`, script.content)),
    ...env.map(environmentPart),
    part('user', user),
    part('working directory', cwd),
    ...mounts.map((mount, i) => part(`mount ${i + 1}`, mountOf(mount))),
    part('network', network === 'default' ? (context.network ?? 'host') : network),
    part('security', security),
    part('capabilities', [...(context.capabilities ?? [])].sort()),
    part('isolation', context.isolation ?? 'oci'),
  ]
}

function environmentPart(entry: string): CachePart {
  const equals = entry.indexOf('=')
  return part(`variable ${entry.slice(0, equals)}`, entry.slice(equals + 1))
}

function mountOf(mount: RunMount): unknown {
  switch (mount.type) {
    case 'bind':
      return ['bind', mount.target, originOf(mount.from), mount.source, mount.readWrite]
    case 'cache': {
      const { target, cacheId, from, source, readOnly, sharing, mode, uid, gid } = mount
      const origin = from === undefined ? null : originOf(from)
      return ['cache', target, cacheId, origin, source, readOnly, sharing, mode, uid, gid]
    }
    case 'tmpfs':
      return ['tmpfs', mount.target, mount.size ?? null]
    case 'secret':
    case 'ssh': {
      const env = mount.type === 'secret' ? (mount.env ?? null) : null
      const { type, id, target, required, mode, uid, gid } = mount
      return [type, id, target ?? null, env, required, mode, uid, gid]
    }
  }
}

/** Vertex ids are names inside one plan; what they stand for is part of the origin. */
function originOf(from: Extract<RunMount, { type: 'bind' }>['from']): unknown {
  return from.kind === 'context' ? ['context', from.context] : ['stage', from.vertex === null]
}

function part(name: string, value: unknown): CachePart {
  return { name, value: typeof value === 'string' ? value : JSON.stringify(value) }
}

/** One digest for several keys. */
export function digestKeys(keys: readonly string[]): string {
  return digestParts(keys.map((value, i) => ({ name: String(i), value })))
}

/** Length before text, in code units, so that no two lists of parts have the same encoding. */
function digestParts(parts: readonly CachePart[]): string {
  const hash = createHash('sha256')
  for (const { name, value } of parts) {
    for (const text of [name, value]) hash.update(`${text.length}:`).update(text, 'utf16le')
  }
  return hash.digest('hex')
}
