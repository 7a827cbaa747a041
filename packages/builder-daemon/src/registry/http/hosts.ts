import { isIP } from 'node:net'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

const hostPattern =
  /^(?:[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?|\[[0-9A-Fa-f:]+(?:\.[0-9.]+)?\])(?::[0-9]{1,5})?$/

/** A host with an optional port that can stand in a URL and as the name of a directory. Fails with ISB_REFERENCE_INVALID. */
export function checkedHost(host: string): string {
  if (host.length > 255 || !hostPattern.test(host) || !URL.canParse(`https://${host}/`)) {
    throw new BuilderError(
      'ISB_REFERENCE_INVALID',
      `${JSON.stringify(host.slice(0, 80))} is no registry host`,
      {
        hint: 'Expected `name`, `name:port` or an address.',
      },
    )
  }
  return host
}

/** `docker.io` is a name for users; what answers is another host. */
export function endpointRoot(host: string, scheme: 'https' | 'http'): URL {
  const served =
    host === 'docker.io' || host === 'index.docker.io' ? 'registry-1.docker.io' : checkedHost(host)
  return new URL(`${scheme}://${served}/`)
}

/** Without the brackets of an IPv6 address. */
export function bareHostname(url: URL): string {
  return url.hostname.replace(/^\[(.*)\]$/, '$1')
}

/** By name or as a literal; never asks DNS. */
export function isLoopbackHost(url: URL): boolean {
  const name = bareHostname(url)
  if (isIP(name) === 4) return name.startsWith('127.')
  return name === '::1' || /^::ffff:7f[0-9a-f]{2}:/.test(name) || /^(?:.*\.)?localhost\.?$/.test(name)
}
