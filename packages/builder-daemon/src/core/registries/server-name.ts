import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { isHost, isLocation } from './prefix.js'

/** A registry somebody logs in to. */
export interface ServerName {
  /** Host with its port. */
  readonly host: string
  /** The part of it the login is for; '': all of it. */
  readonly namespace: string
}

const maxLength = 255

/**
 * `host[:port][/namespace…]`, a scheme in front of it is dropped, and with it, as it was an URL then, the path.
 * Spellings of Docker Hub are `docker.io`. Fails with ISB_ARGUMENT_INVALID.
 */
export function parseServer(text: string): ServerName {
  if (text === '') throw invalid('empty server address')
  if (Buffer.byteLength(text) > maxLength) throw invalid('max length of server name exceeded')
  const bare = text.replace(/^https?:\/\//, '').replace(/^docker:\/\//, '')
  const isUrl = bare !== text
  const slash = bare.indexOf('/')
  const host = slash < 0 ? bare : bare.slice(0, slash)
  const rest = slash < 0 ? '' : bare.slice(slash + 1)
  const shown = JSON.stringify(text)
  if (host === '' || !isHost(host)) throw invalid(`invalid registry address ${shown}`)
  const name = isHubHost(host) ? 'docker.io' : host.toLowerCase()
  if (rest === '' || isUrl) return { host: name, namespace: '' }
  // In references such a name is no registry, so a login for a part of it would never count.
  if (!isLocation(bare) || (host !== 'localhost' && !/[.:]/.test(host))) {
    throw invalid(`invalid registry address ${shown}`)
  }
  return { host: name, namespace: rest }
}

/** Docker Hub has had several names; logins are kept under any of them. */
export function isHubHost(host: string): boolean {
  return ['docker.io', 'index.docker.io', 'registry-1.docker.io'].includes(host.toLowerCase())
}

function invalid(message: string): BuilderError {
  return new BuilderError('ISB_ARGUMENT_INVALID', message, { hint: 'Expected HOST[:PORT][/NAMESPACE].' })
}
