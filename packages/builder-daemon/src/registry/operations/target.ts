import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { type Digest, parseDigest } from '@isula-build/shared/oci/digest.js'
import type { Endpoint, RegistryCall } from '../../ports/registry.js'
import type { Answer, Exchange, RegistryHttp, Scope } from '../http/exchange.js'
import { endpointRoot } from '../http/hosts.js'

/** One repository, as one call reaches it. */
export interface Target {
  readonly http: RegistryHttp
  readonly endpoint: Endpoint
  readonly call: RegistryCall
}

const repositoryPattern =
  /^[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*$/
const tagPattern = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/
const maxName = 255

/** `what` is for messages, e.g. `manifest 1.36 of docker.io/library/busybox`. */
export function send(target: Target, exchange: Exchange, what: string): Promise<Answer> {
  const { host, insecure } = target.endpoint
  const to = exchange.target
  // Whether a registry is spoken to in plain HTTP is decided where its endpoint is reached, whatever it says of itself.
  const own = to instanceof URL && to.protocol === 'http:' && to.host === endpointRoot(host, 'http').host
  const request = own ? { ...exchange, target: to.pathname + to.search } : exchange
  return target.http.send({ host, insecure }, request, { ...target.call, what })
}

export function nameOf({ host, repository }: Endpoint): string {
  return `${host}/${repository}`
}

/** `/v2/<name>/<rest>`; fails with ISB_REFERENCE_INVALID for what is no name, so that none leads elsewhere. */
export function repositoryPath({ repository }: Endpoint, rest: string): string {
  if (repository.length > maxName || !repositoryPattern.test(repository)) {
    const shown = JSON.stringify(repository.slice(0, 100))
    throw new BuilderError('ISB_REFERENCE_INVALID', `${shown} is no name of a repository`)
  }
  return `/v2/${repository}/${rest}`
}

export function blobPath(endpoint: Endpoint, digest: Digest): string {
  return repositoryPath(endpoint, `blobs/${checkedDigest(digest)}`)
}

export function manifestPath(endpoint: Endpoint, reference: string): string {
  return repositoryPath(
    endpoint,
    `manifests/${tagPattern.test(reference) ? reference : checkedDigest(reference)}`,
  )
}

export function isTag(text: string): boolean {
  return tagPattern.test(text)
}

export function checkedDigest(text: string): Digest {
  const digest = parseDigest(text)
  if (digest !== undefined) return digest
  const shown = JSON.stringify(text.slice(0, 150))
  if (/^[a-z0-9]+(?:[+._-][a-z0-9]+)*:[0-9a-zA-Z=_-]+$/.test(text)) {
    throw new BuilderError(
      'ISB_UNSUPPORTED',
      `${shown} is no sha256 digest; other algorithms are not supported`,
    )
  }
  throw new BuilderError('ISB_REFERENCE_INVALID', `${shown} is neither a tag nor a sha256 digest`)
}

/** Of Docker-Content-Digest, which proxies repeat; at most four. */
export function statedDigests(header: string | undefined): readonly string[] {
  return (header ?? '').split(',', 4).map((digest) => digest.trim())
}

/** The first sha256 digest of the header that is another one; what is no such digest says nothing. */
export function otherDigest(header: string | undefined, digest: Digest): string | undefined {
  return statedDigests(header).find((stated) => stated.startsWith('sha256:') && stated !== digest)
}

export function pullScope({ repository }: Endpoint): Scope {
  return { repository, actions: 'pull' }
}

export function pushScope({ repository }: Endpoint, mountFrom?: string): Scope {
  return { repository, actions: 'pull,push', mountFrom }
}
