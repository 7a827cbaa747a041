import { gzipSync } from 'node:zlib'
import { digestHex, digestOf } from '@isula-build/shared/oci/digest.js'
import { expect, test } from 'vitest'
import { loadArchive } from './load.js'
import {
  configOf,
  createBench,
  descriptorOf,
  expectRefused,
  json,
  layerTar,
  loadInto,
  ociLayout,
  ociManifest,
  ociTypes,
  tarEnd,
  tarFile,
} from './test-archives.js'

const rootTest = test.skipIf(process.getuid?.() !== 0)
const one = layerTar(tarFile('one', 'first'))
const two = layerTar(tarFile('two', 'second'))

rootTest('an OCI layout is loaded, with compressed layers and a tag for a name', async () => {
  await using bench = await createBench()
  const packed = gzipSync(two)
  const config = configOf([one, two])
  const manifest = json({
    schemaVersion: 2,
    config: descriptorOf(config, ociTypes.config),
    layers: [descriptorOf(one, ociTypes.layer), descriptorOf(packed, `${ociTypes.layer}+gzip`)],
  })
  const names = {
    'org.opencontainers.image.ref.name': '1.0',
    'io.containerd.image.name': 'docker.io/library/a:1.0',
  }
  const index = { manifests: [descriptorOf(manifest, ociTypes.manifest, { annotations: names })] }
  const [image] = await loadInto(bench, ociLayout([one, packed, config, manifest], index))
  expect(image).toMatchObject({ id: digestHex(digestOf(config)), names: ['a:1.0'] })
})

rootTest('of several platforms the one of the host is taken', async () => {
  await using bench = await createBench()
  const images = ['arm64', 'amd64'].map((architecture, i) => {
    const layer = i === 0 ? one : two
    const config = configOf([layer], { architecture })
    const manifest = ociManifest(config, [layer])
    const descriptor = descriptorOf(manifest, ociTypes.manifest, { platform: { os: 'linux', architecture } })
    return { config, layer, manifest, descriptor }
  })
  const attestation = {
    ...descriptorOf(json({}), ociTypes.manifest, { platform: { os: 'unknown', architecture: 'unknown' } }),
    annotations: { 'vnd.docker.reference.type': 'attestation-manifest' },
  }
  const inner = json({ manifests: [...images.map((image) => image.descriptor), attestation] })
  const annotations = { 'org.opencontainers.image.ref.name': 'multi:1' }
  const blobs = images.flatMap((image) => [image.config, image.layer, image.manifest])
  const nested = ociLayout([...blobs, inner], {
    manifests: [descriptorOf(inner, ociTypes.index, { annotations })],
  })
  const flat = ociLayout(blobs, { manifests: images.map((image) => ({ ...image.descriptor, annotations })) })
  for (const archive of [nested, flat]) {
    const loaded = await loadInto(bench, archive)
    expect(loaded.map((image) => image.id)).toEqual([digestHex(digestOf(images[1]?.config ?? ''))])
    expect(loaded[0]?.names).toEqual(['multi:1'])
  }
  const other = { ...bench.services, platform: { os: 'linux', architecture: 's390x' } }
  const loading = bench.withFile(nested, (input) => loadArchive(input, other, bench.options))
  await expect(loading).rejects.toMatchObject({ code: 'ISB_PLATFORM_UNSUPPORTED' })
})

test('blobs that are absent, of the wrong size or content are refused', async () => {
  const config = configOf([one])
  const manifest = ociManifest(config, [one])
  const top = descriptorOf(manifest, ociTypes.manifest)
  await expectRefused(
    ociLayout([manifest, config], { manifests: [top] }),
    'ISB_ARCHIVE_INVALID',
    /not in the archive/,
  )
  await expectRefused(
    ociLayout([config, one], { manifests: [top] }),
    'ISB_ARCHIVE_INVALID',
    /not in the archive/,
  )
  const wrongSize = { ...top, size: manifest.length + 1 }
  await expectRefused(ociLayout([manifest, config, one], { manifests: [wrongSize] }), 'ISB_DIGEST_MISMATCH')
  const forged = Buffer.concat([
    tarFile(`blobs/sha256/${digestHex(digestOf(manifest))}`, manifest.toString().replace('config', 'CONFIG')),
    tarFile('oci-layout', json({ imageLayoutVersion: '1.0.0' })),
    tarFile('index.json', json({ manifests: [top] })),
    tarEnd,
  ])
  await expectRefused(forged, 'ISB_DIGEST_MISMATCH')
})

rootTest('a compressed layer whose blob digest is wrong is refused', async () => {
  const config = configOf([one])
  const [good, other] = [gzipSync(one, { level: 1 }), gzipSync(one, { level: 0 })]
  const claimed = Buffer.alloc(other.length)
  const layer = { mediaType: `${ociTypes.layer}+gzip`, digest: digestOf(claimed), size: other.length }
  const manifest = json({ config: descriptorOf(config, ociTypes.config), layers: [layer] })
  const archive = Buffer.concat([
    tarFile(`blobs/sha256/${digestHex(digestOf(claimed))}`, other),
    ociLayout([config, manifest, good], { manifests: [descriptorOf(manifest, ociTypes.manifest)] }),
  ])
  await expectRefused(archive, 'ISB_DIGEST_MISMATCH', /^layer /)
})

test('what is no image is refused', async () => {
  const config = configOf([])
  const artifact = json({
    config: descriptorOf(config, 'application/vnd.cncf.helm.config.v1+json'),
    layers: [],
  })
  await expectRefused(
    ociLayout([config, artifact], { manifests: [descriptorOf(artifact, ociTypes.manifest)] }),
    'ISB_ARCHIVE_INVALID',
  )
  const encrypted = ociManifest(configOf([one]), [one], `${ociTypes.layer}+encrypted`)
  const blobs = [configOf([one]), one, encrypted]
  await expectRefused(
    ociLayout(blobs, { manifests: [descriptorOf(encrypted, ociTypes.manifest)] }),
    'ISB_ARCHIVE_INVALID',
  )
  await expectRefused(ociLayout([], { manifests: [] }), 'ISB_ARCHIVE_INVALID')
  const old = Buffer.concat([
    tarFile('oci-layout', json({ imageLayoutVersion: '2.0' })),
    ociLayout([], { manifests: [] }),
  ])
  await expectRefused(old.subarray(0, old.length), 'ISB_ARCHIVE_INVALID')
})

test('indexes nested too deep are refused', async () => {
  const blobs: Buffer[] = []
  let inner = json({ manifests: [] })
  for (let depth = 0; depth < 50; depth++) {
    blobs.push(inner)
    inner = json({ manifests: [descriptorOf(inner, ociTypes.index)] })
  }
  await expectRefused(ociLayout(blobs, JSON.parse(inner.toString())), 'ISB_ARCHIVE_INVALID', /nested deeper/)
})
