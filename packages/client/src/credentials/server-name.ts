import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

const maxLength = 255

const host = /^(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[a-fA-F0-9:]+\])(?::\d{1,5})?$/
const component = /^[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*$/

/**
 * The registry that the argument of `login` and `logout` names: a host, as it is or in a URL, or `host/namespace` for a
 * login that holds for a part of it. Fails with ISB_ARGUMENT_INVALID.
 */
export function serverName(text: string): string {
  if (text.length > maxLength) throw invalid('max length of server name exceeded')
  const [, scheme, rest = ''] = /^(https?:\/\/|docker:\/\/)?(.*)$/s.exec(text) ?? []
  const [server = '', ...path] = rest.split('/')
  if (server === '') throw invalid(`invalid registry address ${JSON.stringify(text)}`)
  if (server === '.' || server === '..' || path.includes('..'))
    throw invalid('invalid relative path detected')
  if (!host.test(server)) throw invalid(`invalid registry address ${JSON.stringify(text)}`)
  const namespace = path.filter((part) => part !== '')
  // What follows the host in a URL is where the API lies.
  if (scheme !== undefined || namespace.length === 0) return server
  const isRegistry = /[.:]/.test(server) || server === 'localhost'
  if (!isRegistry || !namespace.every((part) => component.test(part))) {
    throw invalid(`invalid registry address ${JSON.stringify(text)}`)
  }
  return [server, ...namespace].join('/')
}

/** Hosts of these references; undefined when one leaves it to the daemon. */
export function registryHosts(references: readonly string[]): readonly string[] | undefined {
  const hosts = references.map(withoutTransport).map((reference) => {
    const slash = reference.indexOf('/')
    const first = slash < 0 ? '' : reference.slice(0, slash)
    return /[.:]/.test(first) || first === 'localhost' ? first : undefined
  })
  return hosts.every((one) => one !== undefined) ? hosts : undefined
}

/** A reference without the name of its transport, which other tools want in front of it. */
function withoutTransport(reference: string): string {
  return reference.startsWith('docker://') ? reference.slice('docker://'.length) : reference
}

function invalid(message: string): BuilderError {
  return new BuilderError('ISB_ARGUMENT_INVALID', message, {
    hint: 'Name the host of a registry, such as registry.example.com:5000.',
  })
}
