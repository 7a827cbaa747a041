import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { localName } from '@isula-build/shared/oci/local-name.js'
import type {
  BuildOptionsMessage,
  ContextSource,
  FileDestination,
  Output,
  CacheSource as WireCacheSource,
  CacheTarget as WireCacheTarget,
} from '@isula-build/shared/rpc/build-messages.js'
import type { CacheSource, CacheTarget } from './cache-requests.js'
import type { BuildOptions, BuildOutput, ContextOrigin, OutputTarget } from './handlers.js'
import {
  checkBuildId,
  checkCapabilities,
  checkChoice,
  checkPath,
  checkTime,
  invalid,
  orUndefined,
} from './request-checks.js'
import { pullPolicy, pushOptions, transferOptions } from './transfer-options.js'

const maxDockerfile = 1 << 20
const maxSecret = 500 * 1024

/** Our own request in the core's terms. Fails with ISB_ARGUMENT_INVALID, ISB_LIMIT_EXCEEDED, ISB_UNSUPPORTED. */
export function buildOptionsOf(message: BuildOptionsMessage): BuildOptions {
  const { dockerfile, ignoreFile, cache } = message
  if (dockerfile === undefined) throw invalid('the options hold no Dockerfile')
  limit(dockerfile.content, maxDockerfile, 'the Dockerfile')
  if (ignoreFile !== undefined) limit(ignoreFile.content, maxDockerfile, 'the ignore file')
  return {
    id: message.buildId === '' ? undefined : checkBuildId(message.buildId),
    dockerfile,
    ignoreFile,
    context: contextOf(message.context, 'context'),
    namedContexts: Object.fromEntries(
      [...message.namedContexts].map(([name, source]) => [name, contextOf(source, `context ${name}`)]),
    ),
    buildArgs: Object.fromEntries(message.buildArgs),
    labels: Object.fromEntries(message.labels),
    env: Object.fromEntries(message.env),
    target: orUndefined(message.target),
    tags: message.tags,
    outputs: message.outputs.map(outputOf),
    iidFile: undefined,
    noCache: message.noCache,
    noCacheFilter: message.noCacheFilter,
    platforms: message.platforms,
    capAdd: checkCapabilities(message.capAdd),
    proxy: message.proxy,
    format: checkChoice(message.format, 'image format', ['docker', 'oci']),
    layers: checkChoice(message.layers, 'layers', ['instruction', 'stage']),
    network: checkChoice(message.network, 'network', ['host', 'none']),
    isolation: checkChoice(message.isolation, 'isolation', ['oci', 'chroot']),
    fixedTime: checkTime(message.buildTime),
    secrets: secretsOf(message),
    sshAgents: message.sshAgents,
    cacheFrom: (cache?.from ?? []).map(cacheSource),
    cacheTo: (cache?.to ?? []).map(cacheTarget),
    pull: pullPolicy(message.pull),
    transfer: transferOptions(message.transfer),
  }
}

function contextOf(source: ContextSource | undefined, what: string): ContextOrigin {
  const origin = source?.source
  switch (origin?.case) {
    case 'directory': {
      const { path, dev, inode } = origin.value
      return { kind: 'directory', path: checkPath(path, what), expected: identityOf(dev, inode) }
    }
    case 'stream':
      return { kind: 'stream' }
    case 'image':
      return { kind: 'image', reference: origin.value }
    case undefined:
      throw invalid(`the options hold no ${what}`)
  }
}

function outputOf(output: Output): BuildOutput {
  const { type, destination } = output
  switch (destination?.case) {
    case 'file':
      return archiveOutput(output, fileTarget(destination.value))
    case 'stream':
      return archiveOutput(output, { kind: 'stream' })
    case 'reference':
      return namedOutput(output, destination.value)
    case undefined:
      throw invalid(`output ${JSON.stringify(type)} has no destination`)
  }
}

function archiveOutput({ type, name }: Output, target: OutputTarget): BuildOutput {
  if (type !== 'docker-archive' && type !== 'oci-archive' && type !== 'rootfs') {
    throw invalid(`output ${JSON.stringify(type)} cannot go to a file`)
  }
  return { kind: type, name: name === '' ? undefined : localName(name), target }
}

function namedOutput({ type, name, push }: Output, reference: string): BuildOutput {
  const local = (): string => localName(name === '' ? reference : name)
  if (type === 'registry') return { kind: type, reference, push: pushOptions(push), name: local() }
  if (type === 'docker-daemon' || type === 'isulad') return { kind: type, name: local() }
  throw invalid(`output ${JSON.stringify(type)} cannot go to a reference`)
}

export function fileTarget(file: FileDestination): OutputTarget {
  const path = checkPath(file.path, 'output')
  return { kind: 'file', path, parent: identityOf(file.parentDev, file.parentInode) }
}

function cacheSource({ location }: WireCacheSource): CacheSource {
  switch (location?.case) {
    case 'reference':
      return { kind: 'registry', reference: location.value }
    case 'directory': {
      const { path, dev, inode } = location.value
      return { kind: 'directory', path: checkPath(path, 'cache'), expected: identityOf(dev, inode) }
    }
    case undefined:
      throw invalid('a cache to read has no place')
  }
}

function cacheTarget({ location, ignoreError, ...asked }: WireCacheTarget): CacheTarget {
  const mode = checkChoice(asked.mode, 'cache mode', ['min', 'max'])
  const compression =
    asked.compression === ''
      ? undefined
      : checkChoice(asked.compression, 'cache compression', ['gzip', 'zstd'])
  const rest = { mode, compression, ignoreError }
  switch (location?.case) {
    case 'reference':
      return { kind: 'registry', reference: location.value, ...rest }
    case 'directory': {
      const { path, parentDev, parentInode } = location.value
      const parent = identityOf(parentDev, parentInode)
      return { kind: 'directory', path: checkPath(path, 'cache'), parent, ...rest }
    }
    case undefined:
      throw invalid('a cache to write has no place')
  }
}

/** No file has inode 0, so it means that the client does not know. */
function identityOf(dev: bigint, ino: bigint): { readonly dev: bigint; readonly ino: bigint } | undefined {
  return ino === 0n ? undefined : { dev, ino }
}

function secretsOf(message: BuildOptionsMessage): ReadonlyMap<string, Uint8Array> {
  const secrets = new Map<string, Uint8Array>()
  for (const { id, value } of message.secrets) {
    if (id === '') throw invalid('a secret has no id')
    if (secrets.has(id)) throw invalid(`secret ${JSON.stringify(id)} is given twice`)
    limit(value, maxSecret, `secret ${JSON.stringify(id)}`)
    secrets.set(id, value)
  }
  return secrets
}

function limit(content: Uint8Array, max: number, what: string): void {
  if (content.length > max)
    throw new BuilderError('ISB_LIMIT_EXCEEDED', `${what} is larger than ${max} bytes`)
}
