import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import {
  formatCanonical,
  type ImageReference,
  parseReference,
  tryParseReference,
  withDefaultTag,
} from '@isula-build/shared/oci/reference.js'
import type { Endpoint } from '../../ports/registry.js'
import { prefixLength, ruleText, withLowerHost } from './prefix.js'

/** A `[[registry]]` of registries.toml; those of version 1 become some. */
export interface RegistryRule {
  /** Host with port, perhaps with more of a reference, or `*.domain`. */
  readonly prefix: string
  /** Replaces the prefix; '': references stay as they are. */
  readonly location: string
  readonly insecure: boolean
  readonly blocked: boolean
  readonly mirrors: readonly MirrorRule[]
}

export interface MirrorRule {
  readonly location: string
  readonly insecure: boolean
  /** Which references may be read from it. */
  readonly use: 'all' | 'digest-only' | 'tag-only'
}

/** registries.toml as data. */
export interface RegistryTable {
  /** Hosts for names without one, in order. */
  readonly search: readonly string[]
  /** Name without a host → full name. */
  readonly aliases: ReadonlyMap<string, ImageReference>
  /** Of equal prefixes the first counts. */
  readonly rules: readonly RegistryRule[]
}

/** The rule with the longest prefix. */
function ruleFor(table: RegistryTable, text: string): RegistryRule | undefined {
  let best: RegistryRule | undefined
  for (const rule of table.rules) {
    if (prefixLength(text, rule.prefix) === undefined) continue
    if (best === undefined || weight(rule) > weight(best)) best = rule
  }
  return best
}

/** A host itself weighs more than a wildcard for it. */
function weight({ prefix }: RegistryRule): number {
  return prefix.replace('*', '').length
}

/** See RegistryRules.candidates. */
export function candidatesOf(table: RegistryTable, text: string): readonly ImageReference[] {
  const named = withDefaultTag(parseReference(text))
  if (namesRegistry(text)) return [named]
  const { tag, digest } = named
  const version = {
    ...(tag === undefined ? {} : { tag }),
    ...(digest === undefined ? {} : { digest }),
  }
  const short = shortName(text)
  const under = (host: string): ImageReference => ({ ...parseReference(`${host}/${short}`), ...version })
  const alias = table.aliases.get(short)
  const remote =
    alias === undefined
      ? table.search.map(under).filter((found) => ruleFor(table, ruleText(found))?.blocked !== true)
      : [{ ...alias, ...version }]
  const seen = new Set<string>()
  return [under('localhost'), ...remote].filter((found) => {
    const key = ruleText(found)
    return !seen.has(key) && seen.add(key)
  })
}

/** Whether the first component is a registry, by the rule that references are parsed by. */
function namesRegistry(text: string): boolean {
  const first = text.split('@', 1)[0] ?? ''
  const slash = first.indexOf('/')
  const host = first.slice(0, Math.max(0, slash))
  return slash >= 0 && (host === 'localhost' || /[.:]/.test(host) || host.toLowerCase() !== host)
}

/** Without tag and digest. */
function shortName(text: string): string {
  const name = text.split('@', 1)[0] ?? ''
  const colon = name.lastIndexOf(':')
  return colon < 0 ? name : name.slice(0, colon)
}

/** See RegistryRules.endpoints. */
export function endpointsOf(table: RegistryTable, reference: ImageReference): readonly Endpoint[] {
  const text = ruleText(reference)
  const rule = ruleFor(table, text)
  if (rule === undefined) return [asWritten(reference, false)]
  refuseBlocked(rule, reference)
  const byDigest = reference.digest !== undefined
  const mirrors = rule.mirrors
    .filter(({ use }) => use === 'all' || (use === 'digest-only') === byDigest)
    .map(({ location, insecure }) => endpoint(rewrite(text, rule, location), insecure, true))
  return [...mirrors, locationOf(text, rule, reference)]
}

/** See RegistryRules.destination. */
export function destinationOf(table: RegistryTable, reference: ImageReference): Endpoint {
  const text = ruleText(reference)
  const rule = ruleFor(table, text)
  if (rule === undefined) return asWritten(reference, false)
  refuseBlocked(rule, reference)
  return locationOf(text, rule, reference)
}

function locationOf(text: string, rule: RegistryRule, reference: ImageReference): Endpoint {
  if (rule.location === '') return asWritten(reference, rule.insecure)
  const { domain } = reference
  const at = endpoint(rewrite(text, rule, rule.location), rule.insecure, false)
  return at.host === withLowerHost(domain) ? at : { ...at, named: domain }
}

/** A registry itself, to log in to: rewritten to nowhere. `namespace` may be ''. Fails like `endpointsOf`. */
export function serverOf(table: RegistryTable, host: string, namespace: string): Endpoint {
  const text = withLowerHost(namespace === '' ? host : `${host}/${namespace}`)
  const rule = ruleFor(table, text)
  if (rule?.blocked === true) throw blocked(text, rule)
  return { host: host.toLowerCase(), repository: namespace, insecure: rule?.insecure ?? false, mirror: false }
}

function refuseBlocked(rule: RegistryRule, reference: ImageReference): void {
  if (rule.blocked) throw blocked(formatCanonical(reference), rule)
}

function blocked(what: string, rule: RegistryRule): BuilderError {
  return new BuilderError('ISB_REGISTRY_DENIED', `${what} is blocked by registries.toml (${rule.prefix})`, {
    hint: 'Ask the administrator of this machine, or take the image from another registry.',
  })
}

/** Never parsed anew: without its capital letters a host may read as a part of a name at Docker Hub. */
function asWritten({ domain, path }: ImageReference, insecure: boolean): Endpoint {
  return { host: domain.toLowerCase(), repository: path, insecure, mirror: false }
}

function endpoint(reference: ImageReference, insecure: boolean, mirror: boolean): Endpoint {
  return { host: reference.domain, repository: reference.path, insecure, mirror }
}

function rewrite(text: string, rule: RegistryRule, location: string): ImageReference {
  const written = location + text.slice(prefixLength(text, rule.prefix) ?? 0)
  const rewritten = tryParseReference(written)
  // What does not begin with a registry would be read as a name at Docker Hub.
  if (rewritten !== undefined && namesRegistry(written)) return rewritten
  throw new BuilderError(
    'ISB_REFERENCE_INVALID',
    `registries.toml (${rule.prefix}) makes ${text} into ${written}, which is no name at a registry`,
  )
}

/** What `info` shows. */
export function listsOf(table: RegistryTable): {
  readonly search: readonly string[]
  readonly insecure: readonly string[]
  readonly block: readonly string[]
} {
  const prefixes = (rules: readonly RegistryRule[]): readonly string[] => rules.map(({ prefix }) => prefix)
  return {
    search: table.search,
    insecure: prefixes(table.rules.filter(({ insecure }) => insecure)),
    block: prefixes(table.rules.filter(({ blocked }) => blocked)),
  }
}
