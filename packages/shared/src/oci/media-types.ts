/** Media types of Docker schema 2 (distribution spec v2-2) and of the OCI image spec (media-types.md). */
export const mediaTypes = {
  dockerManifest: 'application/vnd.docker.distribution.manifest.v2+json',
  dockerIndex: 'application/vnd.docker.distribution.manifest.list.v2+json',
  dockerConfig: 'application/vnd.docker.container.image.v1+json',
  dockerLayer: 'application/vnd.docker.image.rootfs.diff.tar',
  dockerLayerGzip: 'application/vnd.docker.image.rootfs.diff.tar.gzip',
  dockerLayerZstd: 'application/vnd.docker.image.rootfs.diff.tar.zstd',
  dockerForeignLayer: 'application/vnd.docker.image.rootfs.foreign.diff.tar',
  dockerForeignLayerGzip: 'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip',
  ociManifest: 'application/vnd.oci.image.manifest.v1+json',
  ociIndex: 'application/vnd.oci.image.index.v1+json',
  ociConfig: 'application/vnd.oci.image.config.v1+json',
  ociLayer: 'application/vnd.oci.image.layer.v1.tar',
  ociLayerGzip: 'application/vnd.oci.image.layer.v1.tar+gzip',
  ociLayerZstd: 'application/vnd.oci.image.layer.v1.tar+zstd',
  ociNondistributableLayer: 'application/vnd.oci.image.layer.nondistributable.v1.tar',
  ociNondistributableLayerGzip: 'application/vnd.oci.image.layer.nondistributable.v1.tar+gzip',
  ociNondistributableLayerZstd: 'application/vnd.oci.image.layer.nondistributable.v1.tar+zstd',
  ociEmpty: 'application/vnd.oci.empty.v1+json',
} as const

export type ManifestFormat = 'docker' | 'oci'
export type LayerCompression = 'none' | 'gzip' | 'zstd'

export function manifestMediaType(format: ManifestFormat): string {
  return format === 'docker' ? mediaTypes.dockerManifest : mediaTypes.ociManifest
}

export function indexMediaType(format: ManifestFormat): string {
  return format === 'docker' ? mediaTypes.dockerIndex : mediaTypes.ociIndex
}

export function configMediaType(format: ManifestFormat): string {
  return format === 'docker' ? mediaTypes.dockerConfig : mediaTypes.ociConfig
}

const layerTypes: Readonly<Record<ManifestFormat, Readonly<Record<LayerCompression, string>>>> = {
  docker: {
    none: mediaTypes.dockerLayer,
    gzip: mediaTypes.dockerLayerGzip,
    zstd: mediaTypes.dockerLayerZstd,
  },
  oci: { none: mediaTypes.ociLayer, gzip: mediaTypes.ociLayerGzip, zstd: mediaTypes.ociLayerZstd },
}

export function layerMediaType(format: ManifestFormat, compression: LayerCompression): string {
  return layerTypes[format][compression]
}

/** How the bytes of a layer of this type are compressed; undefined for anything that is no layer. */
export function layerCompression(mediaType: string): LayerCompression | undefined {
  switch (mediaType) {
    case mediaTypes.dockerLayer:
    case mediaTypes.dockerForeignLayer:
    case mediaTypes.ociLayer:
    case mediaTypes.ociNondistributableLayer:
      return 'none'
    case mediaTypes.dockerLayerGzip:
    case mediaTypes.dockerForeignLayerGzip:
    case mediaTypes.ociLayerGzip:
    case mediaTypes.ociNondistributableLayerGzip:
      return 'gzip'
    case mediaTypes.dockerLayerZstd:
    case mediaTypes.ociLayerZstd:
    case mediaTypes.ociNondistributableLayerZstd:
      return 'zstd'
    default:
      return undefined
  }
}

/** A layer that its author does not want to see in other registries; it may not be where its manifest is. */
export function isForeignLayer(mediaType: string): boolean {
  const foreign: readonly string[] = [
    mediaTypes.dockerForeignLayer,
    mediaTypes.dockerForeignLayerGzip,
    mediaTypes.ociNondistributableLayer,
    mediaTypes.ociNondistributableLayerGzip,
    mediaTypes.ociNondistributableLayerZstd,
  ]
  return foreign.includes(mediaType)
}

export function isManifestMediaType(mediaType: string): boolean {
  return mediaType === mediaTypes.dockerManifest || mediaType === mediaTypes.ociManifest
}

export function isIndexMediaType(mediaType: string): boolean {
  return mediaType === mediaTypes.dockerIndex || mediaType === mediaTypes.ociIndex
}
