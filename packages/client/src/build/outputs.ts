import { resolve } from 'node:path'
import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { localName } from '@isula-build/shared/oci/local-name.js'
import type { Output } from '@isula-build/shared/rpc/build-messages.js'
import { type OutputSpec, type PushSpec, parseOutputSpec } from '@isula-build/shared/text/output-spec.js'
import { fileDestination } from '../commands/save.js'
import { checkLayoutDirectory, filesSink, layoutSink } from '../output/directory-sink.js'
import { checkDocker, dockerSink, dockerSocket } from '../output/engines/docker.js'
import { checkIsula, isuladSink } from '../output/engines/isulad.js'
import type { OutputSink } from '../output/output-sink.js'
import { printBytes } from '../terminal.js'
import { buildErrorPrefix } from './build-inputs.js'

/** What `-o` asks of the daemon, and what this client does itself. */
export interface PlannedOutputs {
  readonly messages: readonly Output[]
  /** By index of the message: where its stream goes. */
  readonly sinks: ReadonlyMap<number, () => OutputSink>
  /** Names for the image that no message holds. */
  readonly tags: readonly string[]
  /** Standard output belongs to an archive. */
  readonly usesStdout: boolean
}

/** One message, and where it must not meet another one. */
interface PlannedOutput {
  readonly message: Output
  readonly sink?: () => OutputSink
  readonly place?: string
}

interface Surroundings {
  /** Values of `-t`, which outputs without a name of their own take. */
  readonly tags: readonly string[]
  readonly environment: Readonly<Record<string, string | undefined>>
}

/** Engines and directories of the user are reached with his own rights: by this client, not by the daemon. */
export function planOutputs(texts: readonly string[], surroundings: Surroundings): PlannedOutputs {
  try {
    const specs = texts.map(parseOutputSpec)
    const planned = specs.flatMap((spec) => plan(spec, surroundings))
    const places = planned.flatMap(({ place }) => place ?? [])
    checkPlaces(places)
    return {
      messages: planned.map(({ message }) => message),
      sinks: new Map(
        planned.flatMap(({ sink }, index) => (sink === undefined ? [] : [[index, sink] as const])),
      ),
      tags: specs.flatMap(moreNames),
      usesStdout: places.includes('-'),
    }
  } catch (error) {
    if (!isBuilderError(error)) throw error
    throw new BuilderError(error.code, `${buildErrorPrefix}${error.message}`, error.details)
  }
}

function plan(spec: OutputSpec, { tags, environment }: Surroundings): readonly PlannedOutput[] {
  switch (spec.kind) {
    case 'docker-archive':
    case 'oci-archive':
      return [archive(spec.kind, spec.path, spec.name)]
    case 'tar':
      return [archive('rootfs', spec.path, undefined)]
    case 'local': {
      const directory = resolve(spec.path)
      return [{ message: streamed('rootfs', ''), sink: () => filesSink(directory), place: directory }]
    }
    case 'oci-dir': {
      const directory = resolve(spec.path)
      checkLayoutDirectory(directory)
      const message = streamed('oci-archive', spec.name ?? '')
      return [{ message, sink: () => layoutSink(directory), place: directory }]
    }
    case 'docker-daemon': {
      const names = spec.names.length > 0 ? spec.names : named(tags, 'docker').map(localName)
      const socket = dockerSocket(environment)
      checkDocker(socket)
      return [{ message: streamed('docker-archive', names[0] ?? ''), sink: () => dockerSink(socket, names) }]
    }
    case 'isulad':
      checkIsula(environment['PATH'])
      return [{ message: streamed('docker-archive', spec.name), sink: () => isuladSink(spec.name) }]
    case 'registry': {
      const references = spec.references.length > 0 ? spec.references : named(tags, 'registry')
      return references.map((reference) => ({
        message: pushed(reference, spec.push),
        place: `//${reference}`,
      }))
    }
    case 'image':
      return []
  }
}

function moreNames(spec: OutputSpec): readonly string[] {
  if (spec.kind === 'image') return spec.names
  return spec.kind === 'docker-daemon' ? spec.names.slice(1) : []
}

function archive(type: string, path: string, name = ''): PlannedOutput {
  const destination = fileDestination(path)
  const message = { type, destination, name, push: undefined }
  if (destination.case === 'file') return { message, place: destination.value.path }
  return { message, sink: () => stdoutSink(type), place: '-' }
}

function streamed(type: string, name: string): Output {
  return { type, destination: { case: 'stream', value: {} }, name, push: undefined }
}

function pushed(reference: string, { format, compression, level }: PushSpec): Output {
  const push = { format: format ?? '', compression: compression ?? '', level }
  return { type: 'registry', destination: { case: 'reference', value: reference }, name: '', push }
}

function stdoutSink(type: string): OutputSink {
  return {
    place: `${type}:-`,
    write: printBytes,
    finish: async () => undefined,
    abort: () => undefined,
  }
}

function named(tags: readonly string[], type: string): readonly string[] {
  if (tags.length > 0) return tags
  throw new BuilderError('ISB_ARGUMENT_INVALID', `output type=${type} has no name`, {
    hint: 'Name the image with -t, or the output with name=….',
  })
}

function checkPlaces(places: readonly string[]): void {
  const twice = places.find((place, index) => places.indexOf(place) !== index)
  if (twice === undefined) return
  const message =
    twice === '-'
      ? 'only one output can go to standard output'
      : `two outputs go to the same ${twice.startsWith('//') ? 'reference' : 'file'} ${JSON.stringify(twice.replace(/^\/\//, ''))}`
  throw new BuilderError('ISB_ARGUMENT_INVALID', message)
}
