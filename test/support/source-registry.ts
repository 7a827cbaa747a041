import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { gzipSync } from 'node:zlib'
import type {
  Endpoint,
  RegistryCall,
  RegistryClient,
  RemoteManifest,
} from '../../packages/builder-daemon/src/ports/registry.js'
import type { RegistryRules } from '../../packages/builder-daemon/src/ports/registry-rules.js'
import { BuilderError } from '../../packages/shared/src/errors/builder-error.js'
import type { Descriptor } from '../../packages/shared/src/oci/descriptor.js'
import { type Digest, digestOf } from '../../packages/shared/src/oci/digest.js'
import { mediaTypes } from '../../packages/shared/src/oci/media-types.js'
import type { Platform } from '../../packages/shared/src/oci/platform.js'
import {
  canonicalName,
  type ImageReference,
  parseReference,
  withDefaultTag,
} from '../../packages/shared/src/oci/reference.js'

/** A layer as a registry has it; `tar` is what it unpacks to. */
export interface SourceLayer {
  readonly tar: Buffer
  readonly blob?: Buffer
  readonly mediaType?: string
}

export interface SourceImage {
  readonly layers: readonly SourceLayer[]
  readonly platform?: Platform
  readonly label?: string
  /** Replaces fields of the manifest and the configuration. */
  readonly manifest?: Readonly<Record<string, unknown>>
  readonly config?: Readonly<Record<string, unknown>>
}

/**
 * Registries in memory that images are pulled from. A fault is a function that is called before the answer with what is
 * asked: `manifest host/repository reference`, `head …`, `config …`, `blob host/repository digest`.
 */
export interface SourceRegistry {
  readonly client: RegistryClient
  readonly requests: string[]
  /** `retries` of each request, in the same order. */
  readonly retries: (number | undefined)[]
  fault: (request: string, signal: AbortSignal) => Promise<void> | void
  /** Replaces what a blob has; the honest content by default. */
  content: (digest: Digest, bytes: Buffer) => Buffer
  /** Puts an image at `host/repository:tag` and gives the descriptor of its manifest. */
  add(at: string, image: SourceImage): Descriptor
  addIndex(at: string, manifests: readonly Descriptor[]): Descriptor
  addDocument(at: string, mediaType: string, document: unknown): Descriptor
  removeBlob(digest: Digest): void
}

export function sourceRegistry(): SourceRegistry {
  const manifests = new Map<string, RemoteManifest>()
  const blobs = new Map<string, Buffer>()
  const requests: string[] = []
  const retries: (number | undefined)[] = []
  const nameOf = ({ host, repository }: Endpoint): string => `${host}/${repository}`

  async function ask(what: string, { access, signal }: RegistryCall): Promise<void> {
    if (signal.aborted) throw new BuilderError('ISB_CANCELLED', 'cancelled')
    requests.push(what)
    retries.push(access.retries)
    await registry.fault(what, signal)
    if (signal.aborted) throw new BuilderError('ISB_CANCELLED', 'cancelled')
  }

  function put(at: string, mediaType: string, bytes: Buffer): Descriptor {
    const reference = withDefaultTag(parseReference(at))
    const digest = digestOf(bytes)
    const remote = { mediaType, bytes, digest }
    manifests.set(`${canonicalName(reference)} ${reference.tag}`, remote)
    manifests.set(`${canonicalName(reference)} ${digest}`, remote)
    return { mediaType, digest, size: bytes.length }
  }

  function find(endpoint: Endpoint, reference: string): RemoteManifest {
    const found = manifests.get(`${nameOf(endpoint)} ${reference}`)
    if (found !== undefined) return found
    throw new BuilderError('ISB_IMAGE_NOT_FOUND', `${nameOf(endpoint)}: 404 no manifest ${reference}`)
  }

  function blobOf(endpoint: Endpoint, { digest }: Descriptor): Buffer {
    const found = blobs.get(digest)
    if (found === undefined) {
      throw new BuilderError('ISB_REGISTRY_DENIED', `${nameOf(endpoint)}: 404 BLOB_UNKNOWN ${digest}`)
    }
    return registry.content(digest, found)
  }

  const unexpected = (): never => {
    throw new Error('a pull does not ask for this')
  }
  const registry: SourceRegistry = {
    requests,
    retries,
    fault: () => undefined,
    content: (_, bytes) => bytes,
    add(at, { layers, platform = { os: 'linux', architecture: 'amd64' }, label = '', ...rest }) {
      const descriptors = layers.map(({ tar, blob = gzipSync(tar), mediaType }) => {
        const digest = digestOf(blob)
        blobs.set(digest, blob)
        return { mediaType: mediaType ?? mediaTypes.ociLayerGzip, digest, size: blob.length }
      })
      const config = Buffer.from(
        JSON.stringify({
          ...platform,
          config: { Labels: { label } },
          rootfs: { type: 'layers', diff_ids: layers.map(({ tar }) => digestOf(tar)) },
          ...rest.config,
        }),
      )
      blobs.set(digestOf(config), config)
      const document = {
        schemaVersion: 2,
        mediaType: mediaTypes.ociManifest,
        config: { mediaType: mediaTypes.ociConfig, digest: digestOf(config), size: config.length },
        layers: descriptors,
        ...rest.manifest,
      }
      return { ...put(at, mediaTypes.ociManifest, Buffer.from(JSON.stringify(document))), platform }
    },
    addIndex(at, list) {
      return registry.addDocument(at, mediaTypes.ociIndex, { schemaVersion: 2, manifests: list })
    },
    addDocument(at, mediaType, document) {
      const bytes = Buffer.isBuffer(document) ? document : Buffer.from(JSON.stringify(document))
      return put(at, mediaType, bytes)
    },
    removeBlob: (digest) => void blobs.delete(digest),
    client: {
      ping: unexpected,
      hasBlob: unexpected,
      mountBlob: unexpected,
      uploadBlob: unexpected,
      streamBlob: unexpected,
      putManifest: unexpected,
      tags: unexpected,
      referrers: unexpected,
      async manifest(endpoint, reference, call) {
        await ask(`manifest ${nameOf(endpoint)} ${reference}`, call)
        return find(endpoint, reference)
      },
      async manifestHead(endpoint, reference, call) {
        await ask(`head ${nameOf(endpoint)} ${reference}`, call)
        const found = manifests.get(`${nameOf(endpoint)} ${reference}`)
        if (found === undefined) return undefined
        return { mediaType: found.mediaType, digest: found.digest, size: found.bytes.length }
      },
      async readBlob(endpoint, blob, limit, call) {
        await ask(`config ${nameOf(endpoint)} ${blob.digest}`, call)
        const bytes = blobOf(endpoint, blob)
        if (bytes.length > limit) throw new BuilderError('ISB_LIMIT_EXCEEDED', 'too long')
        return bytes
      },
      async fetchBlob(endpoint, blob, download, call) {
        const before = existsSync(download.path) ? readFileSync(download.path).length : 0
        await ask(`blob ${nameOf(endpoint)} ${blob.digest}${before === 0 ? '' : ` from ${before}`}`, call)
        const bytes = blobOf(endpoint, blob)
        download.onProgress?.(before)
        if (digestOf(bytes) !== blob.digest) {
          writeFileSync(download.path, '')
          throw new BuilderError('ISB_DIGEST_MISMATCH', `${nameOf(endpoint)}: blob ${blob.digest} lies`)
        }
        writeFileSync(download.path, bytes)
        download.onProgress?.(bytes.length)
      },
    },
  }
  return registry
}

/** Rules without files: `docker.io` is searched, mirrors as given, everything admitted. */
export function plainRules(
  options: {
    readonly search?: readonly string[]
    readonly mirrors?: readonly string[]
    readonly admit?: RegistryRules['admit']
  } = {},
): RegistryRules {
  const { search = ['docker.io'], mirrors = [] } = options
  const endpoint = (host: string, { path }: ImageReference, mirror: boolean): Endpoint => ({
    ...{ host, repository: path, insecure: false, mirror },
  })
  return {
    candidates(text) {
      const reference = parseReference(text)
      const first = text.split('/')[0] ?? ''
      if (text.includes('/') && (first === 'localhost' || /[.:]/.test(first))) return [reference]
      return ['localhost', ...search].map((host) => parseReference(`${host}/${text}`))
    },
    endpoints: (reference) => [
      ...mirrors.map((host) => endpoint(host, reference, true)),
      endpoint(reference.domain, reference, false),
    ],
    destination: (reference) => endpoint(reference.domain, reference, false),
    admit: options.admit ?? (async () => undefined),
    lists: { search, insecure: [], block: [] },
  }
}
