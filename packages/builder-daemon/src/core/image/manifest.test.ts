import { digestOf } from '@isula-build/shared/oci/digest.js'
import { expect, test } from 'vitest'
import { encodeIndex, encodeManifest } from './manifest.js'

const config = { digest: digestOf('c'), size: 1 }
const layers = [
  { digest: digestOf('a'), size: 2, compression: 'none' },
  { digest: digestOf('b'), size: 3, compression: 'gzip' },
] as const

test('a Docker manifest has the media types and the key order of schema 2', () => {
  const { bytes, descriptor } = encodeManifest('docker', { config, layers, annotations: { a: 'b' } })
  expect(Buffer.from(bytes).toString()).toBe(
    '{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json",' +
      `"config":{"mediaType":"application/vnd.docker.container.image.v1+json","digest":"${config.digest}","size":1},` +
      `"layers":[{"mediaType":"application/vnd.docker.image.rootfs.diff.tar","digest":"${layers[0].digest}","size":2},` +
      `{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","digest":"${layers[1].digest}","size":3}]}`,
  )
  expect(descriptor).toEqual({
    mediaType: 'application/vnd.docker.distribution.manifest.v2+json',
    digest: digestOf(bytes),
    size: bytes.length,
  })
})

test('an OCI manifest has OCI types and its annotations sorted', () => {
  const { bytes } = encodeManifest('oci', { config, layers, annotations: { b: '2', a: '1' } })
  const decoded = JSON.parse(Buffer.from(bytes).toString())
  expect(decoded.layers.map((layer: { mediaType: string }) => layer.mediaType)).toEqual([
    'application/vnd.oci.image.layer.v1.tar',
    'application/vnd.oci.image.layer.v1.tar+gzip',
  ])
  expect(decoded.config.mediaType).toBe('application/vnd.oci.image.config.v1+json')
  expect(Object.keys(decoded.annotations)).toEqual(['a', 'b'])
})

test('an index lists manifests with their platforms, in order', () => {
  const { descriptor } = encodeManifest('oci', { config, layers })
  const platform = { os: 'linux', architecture: 'arm64', variant: 'v8' }
  const index = encodeIndex('oci', [{ ...descriptor, platform }, descriptor])
  const decoded = JSON.parse(Buffer.from(index.bytes).toString())
  expect(decoded.manifests).toEqual([{ ...descriptor, platform }, descriptor])
  expect(index.descriptor.mediaType).toBe('application/vnd.oci.image.index.v1+json')
  expect(encodeIndex('docker', []).descriptor.mediaType).toContain('manifest.list')
})
