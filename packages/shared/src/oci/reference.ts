import { BuilderError } from '../errors/builder-error.js'
import { type Digest, parseDigest } from './digest.js'

/**
 * An image reference in canonical parts (grammar: distribution/reference). `busybox` is
 * `{domain: 'docker.io', path: 'library/busybox'}`.
 */
export interface ImageReference {
  /** Registry host with its port. */
  readonly domain: string
  readonly path: string
  readonly tag?: string
  readonly digest?: Digest
}

const defaultDomain = 'docker.io'
const officialPrefix = 'library/'
const defaultTag = 'latest'

const maxNameLength = 255

const domainLabel = '[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?'
const domainPattern = new RegExp(`^(?:${domainLabel}(?:\\.${domainLabel})*|\\[[a-fA-F0-9:]+\\])(?::[0-9]+)?$`)
const pathComponent = /^[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*$/
const tagPattern = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/
const identifierPattern = /^[a-f0-9]{64}$/

/**
 * Parses `[registry/]name[:tag][@sha256:digest]`, familiar or canonical. Fails with
 * ISB_REFERENCE_INVALID; 64 hex digits are an image ID and no name.
 */
export function parseReference(text: string): ImageReference {
  if (text === '') throw invalid(text, 'it is empty')
  if (text.length > 1024) throw invalid(`${text.slice(0, 60)}…`, 'it is too long')
  if (identifierPattern.test(text)) {
    throw invalid(text, '64 hexadecimal digits are an image ID, not a name')
  }
  const at = text.indexOf('@')
  const digest = at < 0 ? undefined : readDigest(text, text.slice(at + 1))
  const named = at < 0 ? text : text.slice(0, at)
  const { domain, rest } = splitDomain(named)
  const colon = rest.indexOf(':')
  const path = colon < 0 ? rest : rest.slice(0, colon)
  const tag = colon < 0 ? undefined : readTag(text, rest.slice(colon + 1))
  checkName(text, domain, path)
  return {
    domain,
    path,
    ...(tag === undefined ? {} : { tag }),
    ...(digest === undefined ? {} : { digest }),
  }
}

function splitDomain(named: string): { readonly domain: string; readonly rest: string } {
  const slash = named.indexOf('/')
  const first = slash < 0 ? '' : named.slice(0, slash)
  const isDomain =
    slash >= 0 && (first === 'localhost' || /[.:]/.test(first) || first.toLowerCase() !== first)
  const domain = isDomain && first !== 'index.docker.io' ? first : defaultDomain
  const rest = isDomain ? named.slice(slash + 1) : named
  const official = domain === defaultDomain && !rest.includes('/')
  return { domain, rest: official ? officialPrefix + rest : rest }
}

function checkName(text: string, domain: string, path: string): void {
  if (!domainPattern.test(domain)) {
    throw invalid(text, `${JSON.stringify(domain)} is no registry name`)
  }
  if (path.toLowerCase() !== path) throw invalid(text, 'the name must be lower case')
  if (domain.length + 1 + path.length > maxNameLength) {
    throw invalid(text, `the name is longer than ${maxNameLength} characters`)
  }
  for (const part of path.split('/')) {
    if (part === '') throw invalid(text, 'a part of the name is empty')
    if (!pathComponent.test(part)) throw invalid(text, `${JSON.stringify(part)} is no part of a name`)
  }
}

function readTag(text: string, tag: string): string {
  if (tag === '') throw invalid(text, 'the tag is empty')
  if (tag.length > 128) throw invalid(text, 'the tag is longer than 128 characters')
  if (!tagPattern.test(tag)) throw invalid(text, `${JSON.stringify(tag)} is no tag`)
  return tag
}

function readDigest(text: string, written: string): Digest {
  const digest = parseDigest(written)
  if (digest === undefined) throw invalid(text, `${JSON.stringify(written)} is no sha256 digest`)
  return digest
}

function invalid(text: string, reason: string): BuilderError {
  return new BuilderError('ISB_REFERENCE_INVALID', `invalid reference ${JSON.stringify(text)}: ${reason}`)
}

/** The reference, with `latest` when it has neither tag nor digest. */
export function withDefaultTag(reference: ImageReference): ImageReference {
  if (reference.tag !== undefined || reference.digest !== undefined) return reference
  return { ...reference, tag: defaultTag }
}

/** `docker.io/library/busybox`: no tag, no digest. */
export function canonicalName(reference: ImageReference): string {
  return `${reference.domain}/${reference.path}`
}

/** `busybox`, `localhost:5000/a/b`: as people write it, no tag, no digest. */
export function familiarName(reference: ImageReference): string {
  if (reference.domain !== defaultDomain) return canonicalName(reference)
  const short = reference.path.startsWith(officialPrefix)
    ? reference.path.slice(officialPrefix.length)
    : reference.path
  if (!short.includes('/')) return short
  // A first component that reads as a registry would parse back as one.
  return splitDomain(reference.path).domain === defaultDomain ? reference.path : canonicalName(reference)
}

/** `docker.io/library/busybox:1.36@sha256:…`; what is absent stays absent. */
export function formatCanonical(reference: ImageReference): string {
  return canonicalName(reference) + suffix(reference)
}

/** `busybox:1.36`; parses back to the same reference. */
export function formatFamiliar(reference: ImageReference): string {
  return familiarName(reference) + suffix(reference)
}

function suffix(reference: ImageReference): string {
  const tag = reference.tag === undefined ? '' : `:${reference.tag}`
  return reference.digest === undefined ? tag : `${tag}@${reference.digest}`
}

/** The reference when `text` is one, else undefined. */
export function tryParseReference(text: string): ImageReference | undefined {
  try {
    return parseReference(text)
  } catch (error) {
    if (error instanceof BuilderError) return undefined
    throw error
  }
}
