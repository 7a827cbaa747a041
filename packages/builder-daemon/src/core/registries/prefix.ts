import { formatCanonical, type ImageReference } from '@isula-build/shared/oci/reference.js'

const label = '[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?'
const hostPattern = new RegExp(`^(?:${label}(?:\\.${label})*|\\[[a-fA-F0-9:]+\\])(?::[0-9]+)?$`)
const domainPattern = new RegExp(`^${label}(?:\\.${label})*$`)
const component = '[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*'
const pathPattern = new RegExp(`^${component}(?:/${component})*$`)
const versionPattern = /^(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?$/

/** `host[:port]`, an IPv6 address in brackets. */
export function isHost(text: string): boolean {
  return hostPattern.test(text)
}

/** `host[:port][/namespace…]`: what a location may be. */
export function isLocation(text: string): boolean {
  const slash = text.indexOf('/')
  if (slash < 0) return isHost(text)
  return isHost(text.slice(0, slash)) && pathPattern.test(text.slice(slash + 1))
}

/** A location, perhaps with a tag or digest, or `*.domain`. */
export function isPrefix(text: string): boolean {
  if (text.startsWith('*.')) return domainPattern.test(text.slice(2))
  if (isLocation(text)) return true
  const slash = text.indexOf('/')
  const end = slash < 0 ? -1 : text.slice(slash).search(/[:@]/)
  if (end < 0) return false
  return isLocation(text.slice(0, slash + end)) && versionPattern.test(text.slice(slash + end))
}

/** Names of hosts do not depend on case, so no rule can be dodged by writing one in capitals. */
export function withLowerHost(text: string): string {
  const slash = text.indexOf('/')
  return slash < 0 ? text.toLowerCase() : text.slice(0, slash).toLowerCase() + text.slice(slash)
}

/** The reference as rules see it: canonical, the host in lower case. */
export function ruleText(reference: ImageReference): string {
  return withLowerHost(formatCanonical(reference))
}

/**
 * How much of a canonical reference the prefix covers (containers-registries.conf(5), "prefix"); undefined when it does
 * not. It ends where a component does; a host without a port covers all of its ports, as in containers/image.
 */
export function prefixLength(reference: string, prefix: string): number | undefined {
  const end = prefix.startsWith('*.') ? subdomainEnd(reference, prefix.slice(1)) : prefix.length
  if (end === undefined || (!prefix.startsWith('*.') && !reference.startsWith(prefix))) return undefined
  return end === reference.length || '/:@'.includes(reference.charAt(end)) ? end : undefined
}

/** `.example.com` at the end of the host name, with something before it. */
function subdomainEnd(reference: string, suffix: string): number | undefined {
  const name = /^[^/:@]*/.exec(reference)?.[0] ?? ''
  return name.length > suffix.length && name.endsWith(suffix) ? name.length : undefined
}
