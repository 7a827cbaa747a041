import { isIP } from 'node:net'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { shown } from '../http/error-text.js'
import { bareHostname, isLoopbackHost } from '../http/hosts.js'
import { type TrustedHosts, trustHint } from '../http/trusted-hosts.js'
import { mayName, type Zone, zoneOf } from '../http/zones.js'

/** The registry that names a token server. */
export interface RealmContext {
  readonly host: string
  readonly root: URL
  /** Plain HTTP and unverified certificates are allowed for it. */
  readonly insecure: boolean
  readonly zone: Zone
  readonly trusted: TrustedHosts
}

/**
 * The token server of a challenge, if credentials may go there: over https to any host that is as public as the registry
 * itself; over http only on the host of a registry that is itself insecure; anyhow to trusted hosts. DNS names are checked again when connecting.
 * Fails with ISB_REGISTRY_DENIED.
 */
export function checkedRealm(
  realm: string | undefined,
  { host, root, insecure, zone, trusted }: RealmContext,
): URL {
  const refuse = (reason: string, way = '') =>
    new BuilderError(
      'ISB_REGISTRY_DENIED',
      `registry ${host}: its token server ${JSON.stringify(shown(realm ?? ''))} ${reason}`,
      { hint: `No credentials were sent. Ask who runs the registry. ${way}`.trim() },
    )
  if (realm === undefined || !URL.canParse(realm)) throw refuse('is no URL')
  const url = new URL(realm)
  url.hash = ''
  if (url.username !== '' || url.password !== '') throw refuse('carries a user name')
  const own = url.hostname === root.hostname
  const near = own || (isLoopbackHost(url) && isLoopbackHost(root))
  const isWeb = url.protocol === 'http:' || url.protocol === 'https:'
  if (isWeb && trusted.names(url)) return url
  if (url.protocol === 'http:') {
    if (!insecure || !near) throw refuse('does not use https', trustHint(url))
  } else if (url.protocol !== 'https:') throw refuse('does not use https')
  if (!near) {
    const address = bareHostname(url)
    const target = isIP(address) !== 0 ? zoneOf(address) : isLoopbackHost(url) ? 'loopback' : 'public'
    if (!mayName(zone, target)) {
      throw refuse(`is a ${target} address, the registry a ${zone} one`, trustHint(url))
    }
  }
  return url
}
