import { BlockList, isIP } from 'node:net'
import { bareHostname } from './hosts.js'

/** What the administrator lets any registry name (`trusted_hosts` of configuration.toml), by plain HTTP too. */
export interface TrustedHosts {
  /** The host of the URL is listed: by its name, or as an address. */
  names(url: URL): boolean
  /** An address that a name was found to have is listed. */
  holds(address: string): boolean
}

/** Entries are hosts, `*.` with a domain, addresses and CIDRs, none with a port. */
export function trustedHosts(entries: readonly string[]): TrustedHosts {
  const networks = new BlockList()
  const hosts = new Set<string>()
  const suffixes: string[] = []
  for (const entry of entries) {
    const [address = '', bits] = entry.split('/')
    const family = isIP(address)
    const type = family === 6 ? 'ipv6' : 'ipv4'
    if (family !== 0 && bits !== undefined) networks.addSubnet(address, Number(bits), type)
    else if (family !== 0) networks.addAddress(address, type)
    else if (entry.startsWith('*.')) suffixes.push(entry.slice(1).toLowerCase())
    else hosts.add(entry.toLowerCase())
  }
  const holds = (address: string) => {
    const plain = address.replace(/%.*$/, '')
    const family = isIP(plain)
    // A list of IPv4 networks knows IPv4-mapped addresses.
    return family !== 0 && networks.check(plain, family === 6 ? 'ipv6' : 'ipv4')
  }
  return {
    names(url) {
      const host = bareHostname(url).replace(/\.$/, '')
      return holds(host) || hosts.has(host) || suffixes.some((suffix) => host.endsWith(suffix))
    },
    holds,
  }
}

/** How to allow what was refused. */
export function trustHint(url: URL): string {
  const host = bareHostname(url)
  return `If the registry may send us there, add "${host}" to \`trusted_hosts\` in [registry] of configuration.toml.`
}
