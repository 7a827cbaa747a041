import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Endpoint, RegistryCall, RegistryClient } from '../ports/registry.js'
import { cancellation } from './http/cancellation.js'
import type { RegistryHttp } from './http/exchange.js'
import { RecentMap } from './http/recent-map.js'
import { fetchBlob, readBlob } from './operations/blob-download.js'
import { hasBlob, mountBlob } from './operations/blob-presence.js'
import { streamBlob } from './operations/blob-stream.js'
import { uploadBlob } from './operations/blob-upload.js'
import { listReferrers, listTags } from './operations/lists.js'
import { putManifest } from './operations/manifest-upload.js'
import { headManifest, readManifest } from './operations/manifests.js'
import { createOpenUploads } from './operations/open-uploads.js'
import { send, type Target } from './operations/target.js'

/** The registry client, in the thread that calls it. */
export function createRegistryClient(http: RegistryHttp): RegistryClient {
  /** Whatever fails because of an abort has been cancelled, however it shows. */
  async function run<T>(
    endpoint: Endpoint,
    call: RegistryCall,
    operation: (target: Target) => Promise<T>,
  ): Promise<T> {
    if (call.signal.aborted) throw cancellation(call.signal)
    try {
      return await operation({ http, endpoint, call })
    } catch (error) {
      if (call.signal.aborted && !isBuilderError(error, 'ISB_CANCELLED')) throw cancellation(call.signal)
      throw error
    }
  }
  const uploads = createOpenUploads()
  /** Registries that want to know the size of what they get, and when they said so. */
  const refusing = new RecentMap<number>()
  return {
    ping: (endpoint, call) => run(endpoint, call, ping),
    manifest: (endpoint, reference, call) => run(endpoint, call, (target) => readManifest(target, reference)),
    manifestHead: (endpoint, reference, call) =>
      run(endpoint, call, (target) => headManifest(target, reference)),
    readBlob: (endpoint, blob, limit, call) => run(endpoint, call, (target) => readBlob(target, blob, limit)),
    fetchBlob: (endpoint, blob, download, call) =>
      run(endpoint, call, (target) => fetchBlob(target, blob, download)),
    hasBlob: (endpoint, digest, call) => run(endpoint, call, (target) => hasBlob(target, digest)),
    mountBlob: (endpoint, digest, from, call) =>
      run(endpoint, call, (target) =>
        mountBlob(target, digest, from, (session) => uploads.keep(endpoint, digest, call, session)),
      ),
    uploadBlob: (endpoint, blob, call) =>
      run(endpoint, call, (target) => uploadBlob(target, blob, uploads.take(endpoint, blob.digest, call))),
    async streamBlob(endpoint, stream, call) {
      const key = `${endpoint.host} ${endpoint.insecure}`
      if (performance.now() - (refusing.get(key) ?? Number.NEGATIVE_INFINITY) < refusalMs) return false
      const outcome = await run(endpoint, call, (target) => streamBlob(target, stream))
      if (outcome === 'refused') refusing.set(key, performance.now())
      return outcome === 'stored'
    },
    putManifest: (endpoint, reference, manifest, call) =>
      run(endpoint, call, (target) => putManifest(target, reference, manifest)),
    tags: (endpoint, call) => run(endpoint, call, listTags),
    referrers: (endpoint, digest, call) => run(endpoint, call, (target) => listReferrers(target, digest)),
  }
}

/** What one upload was refused may have had other reasons, so it is tried again, milliseconds. */
const refusalMs = 10 * 60_000

/** OCI distribution spec, "Determining Support". */
async function ping(target: Target): Promise<void> {
  const { host } = target.endpoint
  const exchange = { method: 'GET', target: '/v2/', scope: undefined, repeat: 'safe' } as const
  const answer = await send(target, { ...exchange, expect: [200, 404] }, `registry ${host}`)
  await answer.discard()
  if (answer.status === 200) return
  throw new BuilderError(
    'ISB_REGISTRY_DENIED',
    `${host} is no registry: it does not know /v2/ (status 404)`,
    {
      hint: 'Check the name of the server and its port.',
    },
  )
}
