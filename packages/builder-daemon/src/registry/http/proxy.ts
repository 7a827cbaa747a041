import { BlockList, isIP } from 'node:net'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { bareHostname, isLoopbackHost } from './hosts.js'

export interface ProxyServer {
  /** http or https, without user information. */
  readonly url: URL
  /** Value of ProxyServer-Authorization. */
  readonly authorization: string | undefined
}

export type ProxyRules = (url: URL) => ProxyServer | undefined

/**
 * Reads `https_proxy`, `http_proxy` and `no_proxy`, lower case first, as Go programs do (net/http, ProxyFromEnvironment):
 * `no_proxy` holds hosts (with their subdomains), `.suffix`, `*.suffix`, addresses, CIDRs, each with an optional port, or `*`.
 * Loopback hosts never go through a proxy. A proxy that cannot be used fails with ISB_CONFIG_INVALID when it is wanted.
 */
export function proxyRules(environment: Readonly<Record<string, string | undefined>>): ProxyRules {
  const setting = (name: string) => environment[name] || environment[name.toUpperCase()] || ''
  const excluded = exclusions(setting('no_proxy'))
  return (url) => {
    if (isLoopbackHost(url)) return undefined
    const name = url.protocol === 'https:' ? 'https_proxy' : 'http_proxy'
    const value = setting(name)
    return value === '' || excluded(url) ? undefined : readProxy(name, value)
  }
}

function readProxy(name: string, value: string): ProxyServer {
  const text = /^[a-z][a-z0-9+.-]*:\/\//i.test(value) ? value : `http://${value}`
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (url === undefined || (url.protocol !== 'http:' && url.protocol !== 'https:')) {
    throw new BuilderError(
      'ISB_CONFIG_INVALID',
      url === undefined
        ? `${name} in the environment of the daemon is no URL`
        : `${name} in the environment of the daemon names a ${url.protocol.slice(0, -1)} proxy; only http and https ones can be used`,
      { hint: 'Expected `http://[user:password@]host:port`.' },
    )
  }
  const user = `${decoded(url.username)}:${decoded(url.password)}`
  const bare = new URL('/', url)
  bare.username = ''
  bare.password = ''
  return {
    url: bare,
    authorization: user === ':' ? undefined : `Basic ${Buffer.from(user).toString('base64')}`,
  }
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

function exclusions(list: string): (url: URL) => boolean {
  const rules = list
    .split(/[\s,]+/)
    .filter((entry) => entry !== '')
    .map(exclusion)
  return (url) => rules.some((rule) => rule(url))
}

function exclusion(entry: string): (url: URL) => boolean {
  if (entry === '*') return () => true
  const network = /^\[?([0-9a-f:.]+)\]?\/([0-9]{1,3})$/i.exec(entry)
  if (network) return inNetwork(network[1] ?? '', Number(network[2]))
  const [, bracketed, name = '', port] =
    /^(?:\[([^\]]*)\]|([^:]*|[^\]]*:[^\]]*:[^\]]*?))(?::([0-9]+))?$/.exec(entry) ?? []
  const wanted = (bracketed ?? name).toLowerCase()
  const fitsPort = (url: URL) => port === undefined || portOf(url) === port
  if (isIP(wanted) !== 0) return (url) => fitsPort(url) && sameAddress(bareHostname(url), wanted)
  const suffix = wanted.replace(/^\*(?=\.)/, '')
  if (suffix === '' || suffix === '.') return () => false
  return (url) => {
    const host = url.hostname.replace(/\.$/, '')
    const inside = suffix.startsWith('.')
      ? host.endsWith(suffix)
      : host === suffix || host.endsWith(`.${suffix}`)
    return inside && fitsPort(url)
  }
}

function inNetwork(address: string, bits: number): (url: URL) => boolean {
  const family = isIP(address)
  if (family === 0 || bits > (family === 4 ? 32 : 128)) return () => false
  const list = new BlockList()
  const type = family === 4 ? 'ipv4' : 'ipv6'
  list.addSubnet(address, bits, type)
  return (url) => isIP(bareHostname(url)) === family && list.check(bareHostname(url), type)
}

function sameAddress(host: string, address: string): boolean {
  return isIP(host) === isIP(address) && inNetwork(address, isIP(address) === 4 ? 32 : 128)(urlOf(host))
}

function urlOf(address: string): URL {
  return new URL(isIP(address) === 6 ? `http://[${address}]/` : `http://${address}/`)
}

export function portOf(url: URL): string {
  return url.port || (url.protocol === 'https:' ? '443' : '80')
}
