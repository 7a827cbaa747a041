import { createHash } from 'node:crypto'
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { createSecureContext, rootCertificates, type SecureContext } from 'node:tls'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { shown } from './error-text.js'
import { checkedHost } from './hosts.js'

/** What a TLS connection to a host is made with. */
export interface Trust {
  /** Equal for equal material. */
  readonly key: string
  /** Without `verified` no certificate authority is read. */
  context(verified: boolean): SecureContext
}

export interface TrustStore {
  /** Fails with ISB_REFERENCE_INVALID for what is no host, ISB_CONFIG_INVALID for files that cannot be used. */
  of(host: string): Trust
}

const systemBundles = [
  '/etc/ssl/certs/ca-certificates.crt',
  '/etc/pki/tls/certs/ca-bundle.crt',
  '/etc/ssl/ca-bundle.pem',
]
const maxFileSize = 1024 * 1024

/**
 * Certificate authorities of Node, of the system and of `certs.d/<host[:port]>/*.crt`, and the client certificates there:
 * `<name>.cert` with `<name>.key`. Files are read again when they change.
 */
export function createTrustStore(
  directories: readonly string[],
  environment: Readonly<Record<string, string | undefined>>,
): TrustStore {
  const contexts = new Map<string, SecureContext>()
  const hosts = new Map<string, { readonly state: string; readonly trust: Trust }>()
  let system: readonly string[] | undefined

  function trust(material: Material): Trust {
    const key = createHash('sha256').update(JSON.stringify(material)).digest('hex')
    return {
      key,
      context(verified) {
        const cached = contexts.get(key + verified)
        if (cached !== undefined) return cached
        system ??= systemAuthorities(environment)
        const context = build(material, verified ? system : [])
        if (contexts.size >= 64) contexts.clear()
        contexts.set(key + verified, context)
        return context
      },
    }
  }

  const plain = trust({ directory: '', authorities: [], pairs: [] })
  return {
    of(host) {
      const found = findDirectory(directories, checkedHost(host))
      if (found === undefined) return plain
      const known = hosts.get(found.path)
      if (known?.state === found.state) return known.trust
      const fresh = trust(readMaterial(found.path, found.names))
      hosts.set(found.path, { state: found.state, trust: fresh })
      return fresh
    },
  }
}

interface Material {
  readonly directory: string
  readonly authorities: readonly string[]
  readonly pairs: readonly { readonly cert: string; readonly key: string }[]
}

interface HostDirectory {
  readonly path: string
  readonly names: readonly string[]
  /** Changes with the files. */
  readonly state: string
}

function findDirectory(directories: readonly string[], host: string): HostDirectory | undefined {
  for (const directory of directories) {
    const path = join(directory, host)
    try {
      const names = readdirSync(path)
        .filter((name) => /\.(?:crt|cert|key)$/.test(name))
        .sort()
      const states = names.map((name) => {
        const { mtimeMs, size, ino } = statSync(join(path, name))
        return [name, mtimeMs, size, ino]
      })
      return { path, names, state: JSON.stringify(states) }
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code === 'ENOENT' && !isBrokenLink(error)) continue
      if (code === 'ENOTDIR' && (error as NodeJS.ErrnoException).path === path) continue
      throw unusable((error as NodeJS.ErrnoException).path ?? path, code ?? 'cannot be read', error)
    }
  }
  return undefined
}

/** `scandir` failing means no directory, `stat` failing a file that is named but not there. */
function isBrokenLink(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).syscall === 'stat'
}

function readMaterial(directory: string, names: readonly string[]): Material {
  const read = (name: string) => readText(join(directory, name))
  const has = new Set(names)
  const lacking = (name: string, other: string) =>
    new BuilderError('ISB_CONFIG_INVALID', `${join(directory, name)} is there without ${other}`, {
      hint: 'A client certificate needs `<name>.cert` and `<name>.key`; certificate authorities end in `.crt`.',
    })
  const pairs: { cert: string; key: string }[] = []
  for (const name of names) {
    if (name.endsWith('.key')) {
      const cert = name.replace(/key$/, 'cert')
      if (!has.has(cert)) throw lacking(name, cert)
    } else if (name.endsWith('.cert')) {
      const key = name.replace(/cert$/, 'key')
      if (!has.has(key)) throw lacking(name, key)
      pairs.push({ cert: read(name), key: read(key) })
    }
  }
  return { directory, authorities: names.filter((name) => name.endsWith('.crt')).map(read), pairs }
}

function readText(path: string): string {
  try {
    const { size } = statSync(path)
    if (size > maxFileSize) throw unusable(path, `is larger than ${maxFileSize} bytes`)
    return readFileSync(path, 'utf8')
  } catch (error) {
    if (error instanceof BuilderError) throw error
    throw unusable(path, (error as NodeJS.ErrnoException).code ?? 'cannot be read', error)
  }
}

function build(material: Material, system: readonly string[]): SecureContext {
  const { directory, authorities, pairs } = material
  try {
    return createSecureContext({
      minVersion: 'TLSv1.2',
      ca: [...system, ...authorities],
      ...(pairs.length === 0
        ? {}
        : { cert: pairs.map(({ cert }) => cert), key: pairs.map(({ key }) => key) }),
    })
  } catch (error) {
    throw unusable(directory, `holds no usable certificates: ${shown((error as Error).message)}`, error)
  }
}

/** What administrators of Linux machines extend is the system's bundle; Node has a list of its own. */
function systemAuthorities(environment: Readonly<Record<string, string | undefined>>): readonly string[] {
  const named = [environment['SSL_CERT_FILE'], environment['NODE_EXTRA_CA_CERTS']]
  const certificates = new Set(rootCertificates.map(normalized))
  for (const path of [...systemBundles, ...named]) {
    if (path === undefined || path === '') continue
    let text: string
    try {
      text = readFileSync(path, 'utf8')
    } catch {
      // Each system has some of the bundles; Node itself only warns of extra ones that are not there.
      continue
    }
    for (const [pem] of text.matchAll(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g))
      certificates.add(normalized(pem))
  }
  return [...certificates]
}

function normalized(pem: string): string {
  return pem.replaceAll('\r', '').trim()
}

function unusable(path: string, reason: string, cause?: unknown): BuilderError {
  return new BuilderError('ISB_CONFIG_INVALID', `cannot use the certificates of ${path}: ${reason}`, {
    hint: 'Correct the files below certs.d, or remove them.',
    cause,
  })
}
