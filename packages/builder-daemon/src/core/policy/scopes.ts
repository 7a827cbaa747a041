import { dirname } from 'node:path/posix'
import { canonicalName, type ImageReference } from '@isula-build/shared/oci/reference.js'
import { withLowerHost } from '../registries/prefix.js'
import type { Policy, PolicyRequirement } from './policy.js'

export interface Requirements {
  /** Where they stand in policy.json, for messages. */
  readonly scope: string
  readonly requirements: readonly PolicyRequirement[]
}

/** What an image of a registry has to meet: of the most specific scope, else the transport's own, else `default`. */
export function requirementsFor(policy: Policy, reference: ImageReference): Requirements {
  return find(policy, 'docker', dockerScopes(reference))
}

/** What an archive has to meet; scopes of `oci-archive` are paths, the most specific one counts. */
export function archiveRequirements(
  policy: Policy,
  transport: 'docker-archive' | 'oci-archive',
  path: string | undefined,
): Requirements {
  return find(policy, transport, transport === 'oci-archive' && path !== undefined ? parents(path) : [])
}

/**
 * Scopes of a reference, the most specific first: with its digest, with its tag, repository, namespaces, host, wildcards
 * for its domains (containers-policy.json(5), "docker:").
 */
export function dockerScopes(reference: ImageReference): readonly string[] {
  const name = withLowerHost(canonicalName(reference))
  // Port 443 is what a host without a port means, so it must not lead past that host's scopes.
  const names = [name, ...(/^[^/]*:443\//.test(name) ? [name.replace(':443/', '/')] : [])]
  const versions = [
    ...(reference.digest === undefined ? [] : [`@${reference.digest}`]),
    ...(reference.tag === undefined ? [] : [`:${reference.tag}`]),
  ]
  const plain = names.flatMap((one) => [...versions.map((version) => one + version), ...namespaces(one)])
  return [...plain, ...wildcards(name)]
}

/** `h/a/b` → `h/a/b`, `h/a`, `h`. */
function namespaces(name: string): readonly string[] {
  const parts = name.split('/')
  return parts.map((_, index) => parts.slice(0, parts.length - index).join('/'))
}

/** `a.b.c:1/x` → `*.b.c`, `*.c`. */
function wildcards(name: string): readonly string[] {
  const host = name.split('/', 1)[0] ?? ''
  if (host.startsWith('[')) return []
  const labels = (host.split(':', 1)[0] ?? '').split('.')
  return labels.slice(1).map((_, index) => `*.${labels.slice(index + 1).join('.')}`)
}

function parents(path: string): readonly string[] {
  return path === '/' ? [path] : [path, ...parents(dirname(path))]
}

function find(policy: Policy, transport: string, scopes: readonly string[]): Requirements {
  const known = policy.transports.get(transport) ?? new Map<string, readonly PolicyRequirement[]>()
  const byKey = new Map([...known].map(([scope, value]) => [withLowerHost(scope), { scope, value }]))
  for (const wanted of [...scopes, '']) {
    const found = byKey.get(transport === 'docker' ? wanted : withLowerHost(wanted))
    if (found !== undefined) {
      return { scope: `transports.${transport}[${JSON.stringify(found.scope)}]`, requirements: found.value }
    }
  }
  return { scope: 'default', requirements: policy.default }
}
