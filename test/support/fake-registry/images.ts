import { gzipSync } from 'node:zlib'
import { rawTar } from '../../../packages/builder-daemon/src/layer/test-layers.js'
import { type Digest, digestOf } from '../../../packages/shared/src/oci/digest.js'
import {
  configMediaType,
  indexMediaType,
  layerMediaType,
  type ManifestFormat,
  manifestMediaType,
} from '../../../packages/shared/src/oci/media-types.js'
import type { Platform } from '../../../packages/shared/src/oci/platform.js'
import type { Storage } from './storage.js'

export interface Described {
  readonly mediaType: string
  readonly digest: Digest
  readonly size: number
}

export interface AddedImage extends Described {
  readonly bytes: Buffer
  readonly config: Described
  readonly layers: readonly Described[]
}

export interface ImageToAdd {
  /** Files of each layer, by path without a leading slash. */
  readonly layers: readonly Readonly<Record<string, string | Buffer>>[]
  readonly format?: ManifestFormat
  readonly platform?: Platform
  /** As it is, without gzip. */
  readonly uncompressed?: boolean
  /** Replace fields of the manifest. */
  readonly manifest?: Readonly<Record<string, unknown>>
}

/** Puts images into a registry without a request. */
export interface ImageMaker {
  addBlob(repository: string, bytes: Buffer, mediaType: string): Described
  addImage(repository: string, reference: string, image: ImageToAdd): AddedImage
  addIndex(
    repository: string,
    reference: string,
    entries: readonly (Described & { readonly platform?: Platform })[],
    format?: ManifestFormat,
  ): Described
  addDocument(repository: string, reference: string, mediaType: string, bytes: string | Buffer): Described
}

export function createImageMaker(storage: Storage): ImageMaker {
  const maker: ImageMaker = {
    addBlob(repository, bytes, mediaType) {
      const digest = digestOf(bytes)
      storage.repository(repository).blobs.set(digest, bytes)
      return { mediaType, digest, size: bytes.length }
    },
    addImage(repository, reference, image) {
      const { format = 'docker', platform, uncompressed = false } = image
      const tars = image.layers.map((files) =>
        rawTar(...Object.entries(files).map(([name, content]) => ({ name, content: Buffer.from(content) }))),
      )
      const layers = tars.map((tar) =>
        uncompressed
          ? maker.addBlob(repository, tar, layerMediaType(format, 'none'))
          : maker.addBlob(repository, gzipSync(tar, { level: 1 }), layerMediaType(format, 'gzip')),
      )
      const document = {
        ...{ architecture: 'amd64', os: 'linux', created: '2024-01-01T00:00:00Z', ...platform },
        config: { Cmd: ['/bin/sh'] },
        rootfs: { type: 'layers', diff_ids: tars.map(digestOf) },
        history: tars.map((_, index) => ({
          created: '2024-01-01T00:00:00Z',
          created_by: `layer ${index}`,
        })),
      }
      const bytes = Buffer.from(JSON.stringify(document))
      const config = maker.addBlob(repository, bytes, configMediaType(format))
      const mediaType = manifestMediaType(format)
      const manifest = Buffer.from(
        JSON.stringify({ schemaVersion: 2, mediaType, config, layers, ...image.manifest }),
      )
      return {
        ...maker.addDocument(repository, reference, mediaType, manifest),
        ...{ bytes: manifest, config, layers },
      }
    },
    addIndex(repository, reference, entries, format = 'oci') {
      const mediaType = indexMediaType(format)
      const manifests = entries.map(({ mediaType, digest, size, platform }) => ({
        ...{ mediaType, digest, size, platform },
      }))
      const document = JSON.stringify({ schemaVersion: 2, mediaType, manifests })
      return maker.addDocument(repository, reference, mediaType, document)
    },
    addDocument(repository, reference, mediaType, content) {
      const bytes = Buffer.from(content)
      storage.putManifest(repository, reference, { mediaType, bytes })
      return { mediaType, digest: digestOf(bytes), size: bytes.length }
    },
  }
  return maker
}
