import { createHash, type Hash } from 'node:crypto'
import { closeSync, openSync, readFileSync, renameSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { digestOf } from '../../../packages/shared/src/oci/digest.js'
import type { ReplyBody } from './reply.js'
import { sizeOf } from './reply.js'

export interface StoredManifest {
  readonly mediaType: string
  readonly bytes: Buffer
}

/** An upload under way. */
export interface Upload {
  readonly id: string
  readonly repository: string
  readonly path: string
  readonly hash: Hash
  readonly file: number
  size: number
  /** Part of its Location, new with every answer. */
  state: number
  /** The newest state that the client has been told for certain. */
  told: number
  /** A chunk shorter than OCI-Chunk-Min-Length came, so it has to be the last. */
  short: boolean
}

export interface Repository {
  /** By digest. */
  readonly blobs: Map<string, ReplyBody>
  /** By digest. */
  readonly manifests: Map<string, StoredManifest>
  /** Digests by tag. */
  readonly tags: Map<string, string>
}

/** Content of a registry; blobs that were uploaded are files. */
export interface Storage {
  readonly repositories: Map<string, Repository>
  readonly uploads: Map<string, Upload>
  /** Made when it is not there. */
  repository(name: string): Repository
  beginUpload(repository: string): Upload
  append(upload: Upload, bytes: Uint8Array): void
  /** Makes it a blob of its repository when it has this digest. */
  finish(upload: Upload, digest: string): boolean
  cancel(upload: Upload): void
  /** Bytes of a blob. */
  read(repository: string, digest: string): Buffer
  putManifest(repository: string, reference: string, manifest: StoredManifest): string
}

export function createStorage(directory: string): Storage {
  const repositories = new Map<string, Repository>()
  const uploads = new Map<string, Upload>()
  let count = 0

  const storage: Storage = {
    repositories,
    uploads,
    repository(name) {
      const known = repositories.get(name) ?? { blobs: new Map(), manifests: new Map(), tags: new Map() }
      repositories.set(name, known)
      return known
    },
    beginUpload(repository) {
      const id = `upload-${++count}`
      const path = join(directory, id)
      const upload = {
        ...{ id, repository, path, hash: createHash('sha256'), file: openSync(path, 'w') },
        ...{ size: 0, state: 0, told: 0, short: false },
      }
      uploads.set(id, upload)
      return upload
    },
    append(upload, bytes) {
      for (let done = 0; done < bytes.length; ) done += writeSync(upload.file, bytes, done)
      upload.hash.update(bytes)
      upload.size += bytes.length
    },
    finish(upload, digest) {
      if (`sha256:${upload.hash.copy().digest('hex')}` !== digest) return false
      closeSync(upload.file)
      uploads.delete(upload.id)
      const path = join(directory, `blob-${++count}`)
      renameSync(upload.path, path)
      storage.repository(upload.repository).blobs.set(digest, { path, start: 0, size: upload.size })
      return true
    },
    cancel(upload) {
      if (!uploads.delete(upload.id)) return
      closeSync(upload.file)
      rmSync(upload.path)
    },
    read(repository, digest) {
      const body = storage.repository(repository).blobs.get(digest)
      if (body === undefined) throw new Error(`${repository} has no blob ${digest}`)
      if (Buffer.isBuffer(body)) return body
      return readFileSync(body.path).subarray(body.start, body.start + sizeOf(body))
    },
    putManifest(repository, reference, manifest) {
      const { manifests, tags } = storage.repository(repository)
      const digest = digestOf(manifest.bytes)
      manifests.set(digest, manifest)
      if (!reference.includes(':')) tags.set(reference, digest)
      return digest
    },
  }
  return storage
}
