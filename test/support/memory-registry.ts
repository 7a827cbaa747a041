import { readFile } from 'node:fs/promises'
import type {
  BlobUpload,
  Endpoint,
  RegistryAccess,
  RegistryClient,
} from '../../packages/builder-daemon/src/ports/registry.js'
import { readFromPipe } from '../../packages/builder-daemon/src/system/blob-pipe.js'
import { BuilderError } from '../../packages/shared/src/errors/builder-error.js'
import { type Digest, digestOf } from '../../packages/shared/src/oci/digest.js'

export interface StoredManifest {
  readonly mediaType: string
  readonly bytes: Uint8Array
}

export interface MemoryRegistry {
  readonly client: RegistryClient
  /** `has host/repository digest`, `upload …`, `mount … from`, `manifest … reference`, in the order of asking. */
  readonly requests: string[]
  /** By `host/repository`. */
  readonly blobs: Map<string, Map<Digest, Uint8Array>>
  /** By `host/repository:reference`. */
  readonly manifests: Map<string, StoredManifest>
  /** Called before an upload is stored; what it throws is the answer. */
  beforeUpload: (blob: BlobUpload, signal: AbortSignal) => Promise<void>
  /** Called before a stream is read; false: it is refused. */
  beforeStream: (signal: AbortSignal) => Promise<boolean>
  /** Mounts from these repositories are denied. */
  readonly closed: Set<string>
}

export const anonymous: RegistryAccess = {
  uid: 0,
  credentials: async () => undefined,
  tlsVerify: undefined,
  retries: undefined,
  retryDelay: undefined,
}

/** Registries in memory that files are pushed to, strict about what they take. Only what a push needs. */
export function memoryRegistry(): MemoryRegistry {
  const requests: string[] = []
  const blobs = new Map<string, Map<Digest, Uint8Array>>()
  const manifests = new Map<string, StoredManifest>()
  const nameOf = ({ host, repository }: Endpoint): string => `${host}/${repository}`
  const blobsOf = (name: string): Map<Digest, Uint8Array> => {
    const known = blobs.get(name) ?? new Map<Digest, Uint8Array>()
    blobs.set(name, known)
    return known
  }
  const unexpected = (): never => {
    throw new Error('a push does not ask for this')
  }
  const registry: MemoryRegistry = {
    requests,
    blobs,
    manifests,
    closed: new Set(),
    beforeUpload: async () => undefined,
    beforeStream: async () => true,
    client: {
      ping: async () => undefined,
      manifest: unexpected,
      manifestHead: unexpected,
      readBlob: unexpected,
      fetchBlob: unexpected,
      tags: unexpected,
      referrers: unexpected,
      async hasBlob(endpoint, digest, { signal }) {
        throwIfAborted(signal)
        requests.push(`has ${nameOf(endpoint)} ${digest}`)
        return blobsOf(nameOf(endpoint)).has(digest)
      },
      async mountBlob(endpoint, digest, from, { signal }) {
        throwIfAborted(signal)
        requests.push(`mount ${nameOf(endpoint)} ${digest} from ${from}`)
        const source = `${endpoint.host}/${from}`
        if (registry.closed.has(source)) return false
        const content = blobs.get(source)?.get(digest)
        if (content === undefined) return false
        blobsOf(nameOf(endpoint)).set(digest, content)
        return true
      },
      async uploadBlob(endpoint, blob, { signal }) {
        throwIfAborted(signal)
        requests.push(`upload ${nameOf(endpoint)} ${blob.digest}`)
        blob.onProgress?.(0)
        await registry.beforeUpload(blob, signal)
        throwIfAborted(signal)
        const content = await readFile(blob.path)
        if (digestOf(content) !== blob.digest || content.length !== blob.size) {
          throw new BuilderError('ISB_REGISTRY_DENIED', `${nameOf(endpoint)}: 400 DIGEST_INVALID`)
        }
        blobsOf(nameOf(endpoint)).set(blob.digest, content)
        blob.onProgress?.(blob.size)
      },
      async streamBlob(endpoint, { memory, path, onProgress }, { signal }) {
        throwIfAborted(signal)
        requests.push(`stream ${nameOf(endpoint)}`)
        if (!(await registry.beforeStream(signal))) return false
        const pipe = readFromPipe(memory, path, signal)
        const content: Buffer[] = []
        for await (const piece of pipe.pieces()) {
          content.push(Buffer.from(piece))
          onProgress?.(content.length)
        }
        const bytes = Buffer.concat(content)
        const blob = pipe.whole()
        if (blob?.digest !== digestOf(bytes) || blob.size !== bytes.length) {
          throw new BuilderError('ISB_REGISTRY_DENIED', `${nameOf(endpoint)}: 400 DIGEST_INVALID`)
        }
        blobsOf(nameOf(endpoint)).set(blob.digest, bytes)
        return true
      },
      async putManifest(endpoint, reference, { mediaType, bytes }, { signal }) {
        throwIfAborted(signal)
        requests.push(`manifest ${nameOf(endpoint)} ${reference}`)
        const document = JSON.parse(Buffer.from(bytes).toString('utf8'))
        for (const { digest } of document.manifests ?? []) {
          if (manifests.has(`${nameOf(endpoint)}:${digest}`)) continue
          throw new BuilderError('ISB_REGISTRY_DENIED', `${nameOf(endpoint)}: 404 MANIFEST_UNKNOWN`)
        }
        const needed = document.manifests === undefined ? [document.config, ...document.layers] : []
        for (const { digest, size } of needed) {
          if (blobsOf(nameOf(endpoint)).get(digest)?.length !== size) {
            throw new BuilderError('ISB_REGISTRY_DENIED', `${nameOf(endpoint)}: 404 MANIFEST_BLOB_UNKNOWN`)
          }
        }
        for (const key of [reference, digestOf(bytes)]) {
          manifests.set(`${nameOf(endpoint)}:${key}`, { mediaType, bytes })
        }
      },
    },
  }
  return registry
}

function throwIfAborted(signal: AbortSignal): void {
  if (signal.aborted) throw new BuilderError('ISB_CANCELLED', 'cancelled')
}
