import type { Digest } from '@isula-build/shared/oci/digest.js'
import type { Endpoint, RegistryCall } from '../../ports/registry.js'
import { RecentMap } from '../http/recent-map.js'
import type { UploadSession } from './upload-session.js'

/** Uploads that registries began where a mount was asked for, until the blob is sent. */
export interface OpenUploads {
  keep(endpoint: Endpoint, digest: Digest, call: RegistryCall, session: UploadSession): void
  /** Each is given once. */
  take(endpoint: Endpoint, digest: Digest, call: RegistryCall): UploadSession | undefined
}

/** Milliseconds in which a registry surely does not forget an upload: a blob that goes nowhere is sent for nothing. */
const usable = 120_000

export function createOpenUploads(): OpenUploads {
  const uploads = new RecentMap<{ readonly session: UploadSession; readonly ends: number }>()
  const keyOf = ({ host, repository, insecure }: Endpoint, digest: Digest, { access }: RegistryCall) =>
    JSON.stringify([access.uid, host, repository, insecure, access.tlsVerify ?? null, digest])
  return {
    keep(endpoint, digest, call, session) {
      uploads.set(keyOf(endpoint, digest, call), { session, ends: performance.now() + usable })
    },
    take(endpoint, digest, call) {
      const key = keyOf(endpoint, digest, call)
      const upload = uploads.get(key)
      uploads.delete(key)
      return upload !== undefined && upload.ends > performance.now() ? upload.session : undefined
    },
  }
}
