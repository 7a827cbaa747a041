import { BuilderError } from '../errors/builder-error.js'
import { quoted } from './go-text.js'

export interface PortRange {
  /** 0 to 65535, `first` ≤ `last`. */
  readonly first: number
  readonly last: number
  readonly protocol: 'tcp' | 'udp' | 'sctp'
}

/**
 * One argument of EXPOSE after expansion: `80`, `8000-8010/udp`. The forms `host:container` and
 * `ip:host:container` are taken for what they expose in the container, as in Docker.
 * Fails with ISB_DOCKERFILE_SYNTAX, without a source.
 */
export function parsePortRange(text: string): PortRange {
  const parts = text.split(':')
  const container = parts.pop() ?? ''
  const host = parts.pop() ?? ''
  const address = parts.join(':')
  const slash = container.indexOf('/')
  const range = portNumbers(slash < 0 ? container : container.slice(0, slash))
  const protocol = slash < 0 ? 'tcp' : container.slice(slash + 1).toLowerCase() || 'tcp'
  if (range === undefined) throw invalidPort(text, 'Ports are 0 to 65535; a range is first-last.')
  if (protocol !== 'tcp' && protocol !== 'udp' && protocol !== 'sctp') {
    throw invalidPort(text, 'The protocol is tcp, udp or sctp.')
  }
  const hostRange = host === '' ? range : portNumbers(host)
  const sameSize = hostRange !== undefined && hostRange.last - hostRange.first === range.last - range.first
  if (hostRange === undefined || (!sameSize && range.first !== range.last) || !isAddress(address)) {
    throw invalidPort(text, 'EXPOSE takes the port of the container only.')
  }
  return { ...range, protocol }
}

function portNumbers(text: string): { readonly first: number; readonly last: number } | undefined {
  const match = /^(\d{1,10})(?:-(\d{1,10}))?$/.exec(text)
  if (match === null) return undefined
  const first = Number(match[1])
  const last = Number(match[2] ?? match[1])
  return first <= last && last <= 65_535 ? { first, last } : undefined
}

function isAddress(text: string): boolean {
  if (text === '') return true
  const ipv4 = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/.exec(text)
  if (ipv4 !== null) return ipv4.slice(1).every((part) => Number(part) <= 255)
  return /^\[?[\da-fA-F:]*:[\da-fA-F:.]*\]?$/.test(text)
}

function invalidPort(text: string, hint: string): BuilderError {
  return new BuilderError('ISB_DOCKERFILE_SYNTAX', `invalid port ${quoted(text)}`, { hint })
}
