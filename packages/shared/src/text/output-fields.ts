import { BuilderError } from '../errors/builder-error.js'
import { localName } from '../oci/local-name.js'
import { type Fields, parseFields } from './fields.js'
import type { OutputSpec, PushSpec } from './output-spec.js'
import { suggest } from './suggest.js'

/** Keys of every `type=`, besides that one (docs.docker.com, "Exporters overview"). */
const keys: Readonly<Record<string, readonly string[]>> = {
  local: ['dest'],
  tar: ['dest'],
  docker: ['dest', 'name'],
  oci: ['dest', 'name', 'tar'],
  image: ['name', 'push', 'compression', 'compression-level', 'oci-mediatypes'],
  registry: ['name', 'compression', 'compression-level', 'oci-mediatypes'],
}
const allKeys = new Set(['type', ...Object.values(keys).flat()])

/** Written as `key=value,…`: the first field begins with a key that means something. */
export function isOutputFields(text: string): boolean {
  const [, first] = /^"?([a-z-]+)=/.exec(text) ?? []
  return (first !== undefined && allKeys.has(first)) || /,"?type=/.test(text)
}

/** Parses fields separated by commas (RFC 4180 quotes around those that hold one). Fails with ISB_ARGUMENT_INVALID. */
export function parseOutputFields(text: string): OutputSpec {
  const fields = parseFields(text, 'output')
  const type = fields.get('type') ?? ''
  if (type === '') throw invalid(`output ${JSON.stringify(text)} has no type`, typesHint())
  const known = Object.hasOwn(keys, type) ? keys[type] : undefined
  if (known === undefined) {
    throw invalid(`output type ${JSON.stringify(type)} not support`, didYouMean(type, Object.keys(keys)))
  }
  for (const key of fields.keys()) {
    if (key === 'type' || known.includes(key)) continue
    const meant = suggest(key, known)
    throw invalid(
      `output type=${type} has no key ${JSON.stringify(key)}`,
      meant === undefined ? `It has ${known.join(', ')}.` : `Did you mean ${meant}?`,
    )
  }
  return specOf(type, fields)
}

function specOf(type: string, fields: Fields): OutputSpec {
  const dest = fields.get('dest')
  switch (type) {
    case 'local':
      return { kind: 'local', path: directory(dest, type) }
    case 'tar':
      return { kind: 'tar', path: file(dest) }
    case 'docker':
      if (dest === undefined) return { kind: 'docker-daemon', names: names(fields).map(localName) }
      return { kind: 'docker-archive', path: file(dest), name: oneName(fields) }
    case 'oci':
      return boolean(fields, 'tar', true)
        ? { kind: 'oci-archive', path: file(dest), name: oneName(fields) }
        : { kind: 'oci-dir', path: directory(dest, 'oci,tar=false'), name: oneName(fields) }
    case 'image':
      if (boolean(fields, 'push', false)) return registry(fields)
      return imageSpec(fields)
    default:
      return registry(fields)
  }
}

function imageSpec(fields: Fields): OutputSpec {
  const useless = [...fields.keys()].find((key) => key.startsWith('compression') || key === 'oci-mediatypes')
  if (useless !== undefined) throw invalid(`output key ${useless} means nothing without push=true`)
  return { kind: 'image', names: names(fields).map(localName) }
}

function registry(fields: Fields): OutputSpec {
  const references = names(fields)
  for (const reference of references) localName(reference)
  return { kind: 'registry', references, push: pushSpec(fields) }
}

const highestLevel: Readonly<Record<string, number>> = { gzip: 9, zstd: 19 }

function pushSpec(fields: Fields): PushSpec {
  const compression = fields.get('compression')
  const text = fields.get('compression-level')
  const oci = fields.has('oci-mediatypes') ? boolean(fields, 'oci-mediatypes', true) : undefined
  const format = oci === undefined ? undefined : oci ? 'oci' : 'docker'
  if (compression !== undefined && compression !== 'gzip' && compression !== 'zstd') {
    throw invalid(`compression ${JSON.stringify(compression)} is not supported`, 'Use gzip or zstd.')
  }
  if (text === undefined) return { format, compression, level: undefined }
  if (compression === undefined) throw invalid('compression-level needs a compression')
  const level = Number(text)
  const highest = highestLevel[compression] ?? 0
  if (!/^\d{1,2}$/.test(text) || level < 1 || level > highest) {
    throw invalid(
      `compression level ${JSON.stringify(text)} is not supported`,
      `${compression} has levels 1 to ${highest}.`,
    )
  }
  return { format, compression, level }
}

/** Without `dest` an archive goes to standard output, as with BuildKit. */
function file(dest: string | undefined): string {
  const path = dest ?? '-'
  if (path === '' || path.includes('\0')) throw invalid('destination should not be empty')
  return path
}

function directory(dest: string | undefined, type: string): string {
  if (dest === undefined) throw invalid(`output type=${type} needs dest=DIRECTORY`)
  const path = file(dest)
  if (path === '-') throw invalid('a directory cannot go to standard output')
  return path
}

function names(fields: Fields): readonly string[] {
  const given = fields.get('name')
  if (given === undefined) return []
  const list = given.split(',').map((name) => name.trim())
  if (list.includes('')) throw invalid('an output has an empty name')
  return list
}

function oneName(fields: Fields): string | undefined {
  const [name, ...more] = names(fields)
  if (more.length > 0) throw invalid('an archive takes one name')
  return name === undefined ? undefined : localName(name)
}

function boolean(fields: Fields, key: string, preset: boolean): boolean {
  const text = fields.get(key)
  if (text === undefined) return preset
  if (text === 'true' || text === '1') return true
  if (text === 'false' || text === '0') return false
  throw invalid(`output key ${key} is ${JSON.stringify(text)}, not true or false`)
}

function didYouMean(value: string, candidates: readonly string[]): string {
  const meant = suggest(value, candidates)
  return meant === undefined ? typesHint() : `Did you mean type=${meant}?`
}

function typesHint(): string {
  return `Use type=${Object.keys(keys).join(', type=')}.`
}

function invalid(message: string, hint?: string): BuilderError {
  return new BuilderError('ISB_ARGUMENT_INVALID', message, hint === undefined ? {} : { hint })
}
