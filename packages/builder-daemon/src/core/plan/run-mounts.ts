import * as posix from 'node:path/posix'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { bytesOfText, rootedPath } from '@isula-build/shared/oci/byte-path.js'
import { type MountOptions, mountOptions } from './mount-options.js'
import type { MountSource, RunMount } from './plan.js'

export interface MountScope {
  readonly cwd: string
  readonly expand: (word: string) => string
  /** Finds a stage, image or named context. */
  readonly origin: (name: string) => MountSource
}

/** What the runtime itself mounts: a mount there would change what isolates the RUN. */
const reserved = ['/proc', '/sys', '/dev']

/** One `RUN --mount=`. Rules: BuildKit's Dockerfile reference, "RUN --mount". Fails with ISB_DOCKERFILE_SYNTAX. */
export function planMount(text: string, scope: MountScope): RunMount {
  const options = mountOptions(text, scope.expand)
  switch (options.type) {
    case 'bind':
      return {
        type: 'bind',
        target: mountTarget(options.target ?? '', scope.cwd),
        from: options.from === undefined ? { kind: 'context', context: '' } : scope.origin(options.from),
        source: rootedPath(bytesOfText(options.source ?? '')),
        readWrite: options.readOnly === false,
      }
    case 'cache':
      return cacheMount(options, scope)
    case 'tmpfs':
      return {
        type: 'tmpfs',
        target: mountTarget(options.target ?? '', scope.cwd),
        size: options.size === 0 ? undefined : options.size,
      }
    case 'secret':
      return secretMount(options, scope)
    case 'ssh':
      return sshMount(options, scope)
  }
}

function cacheMount(options: MountOptions, scope: MountScope): RunMount {
  const target = mountTarget(options.target ?? '', scope.cwd)
  return {
    type: 'cache',
    target,
    cacheId: options.id ?? cleanPath(options.target ?? ''),
    from: options.from === undefined || options.from === 'scratch' ? undefined : scope.origin(options.from),
    source: rootedPath(bytesOfText(options.source ?? '')),
    readOnly: options.readOnly === true,
    sharing: options.sharing ?? 'shared',
    mode: options.mode ?? 0o755,
    uid: options.uid ?? 0,
    gid: options.gid ?? 0,
  }
}

function secretMount(options: MountOptions, scope: MountScope): RunMount {
  if (options.from !== undefined) throw invalid('a secret mount has no `from`')
  if (options.source !== undefined && options.id !== undefined) {
    throw invalid('a secret mount has either `id` or `source`, not both')
  }
  const id = options.id ?? options.source ?? posix.basename(options.target ?? '')
  if (id === '') throw invalid('a secret mount needs `id` or `target`')
  const env = options.env === '' ? id : options.env
  if (env !== undefined && !/^[^=\0]+$/.test(env)) {
    throw invalid(`${JSON.stringify(env)} is no name for an environment variable`)
  }
  const target = options.target ?? (env === undefined ? secretFile(id) : undefined)
  return {
    type: 'secret',
    id,
    target: target === undefined ? undefined : mountTarget(target, scope.cwd),
    env,
    required: options.required,
    mode: options.mode ?? 0o400,
    uid: options.uid ?? 0,
    gid: options.gid ?? 0,
  }
}

function secretFile(id: string): string {
  const name = posix.basename(id)
  if (name === '' || name === '.' || name === '..') {
    throw invalid(`the secret ${JSON.stringify(id)} needs a \`target\`: its id ends in no file name`)
  }
  return `/run/secrets/${name}`
}

function sshMount(options: MountOptions, scope: MountScope): RunMount {
  if (options.source !== undefined) throw invalid('an ssh mount has no `source`')
  if (options.from !== undefined) throw invalid('an ssh mount has no `from`')
  return {
    type: 'ssh',
    id: options.id ?? 'default',
    target: options.target === undefined ? undefined : mountTarget(options.target, scope.cwd),
    required: options.required,
    mode: options.mode ?? 0o600,
    uid: options.uid ?? 0,
    gid: options.gid ?? 0,
  }
}

function mountTarget(target: string, cwd: string): string {
  if (target.includes('\0')) throw invalid('a mount target contains a NUL character')
  const path = cleanPath(posix.resolve('/', cwd, target))
  if (path === '/') throw invalid(`invalid mount target ${JSON.stringify(target)}: it is the root directory`)
  const owner = reserved.find((directory) => path === directory || path.startsWith(`${directory}/`))
  if (owner !== undefined) {
    throw invalid(`invalid mount target ${JSON.stringify(target)}: ${owner} is not for mounts`)
  }
  return path
}

/** Go's path.Clean: '' is `.`, no trailing slash. */
function cleanPath(path: string): string {
  const clean = posix.normalize(path)
  return clean.length > 1 && clean.endsWith('/') ? clean.slice(0, -1) : clean
}

function invalid(message: string): BuilderError {
  return new BuilderError('ISB_DOCKERFILE_SYNTAX', message, {
    hint: 'Write `--mount=type=TYPE,target=PATH,…`.',
  })
}
