import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import {
  configOf,
  descriptorOf,
  dockerArchive,
  json,
  layerTar,
  ociLayout,
  ociManifest,
  ociTypes,
  tarEnd,
  tarEntry,
  tarFile,
} from '../../packages/builder-daemon/src/export/test-archives.js'
import { rawTar } from '../../packages/builder-daemon/src/layer/test-layers.js'
import { digestHex, digestOf } from '../../packages/shared/src/oci/digest.js'
import { createHostileBench, type HostileBench } from '../support/hostile-bench.js'

/** Documents of archives that lie, point outside or are too large (S38 to S42). */

const isRoot = process.getuid?.() === 0

describe.skipIf(!isRoot)('the documents of a hostile archive', () => {
  let hostile: HostileBench
  const layer = layerTar(tarFile('file', 'content'))
  const config = configOf([layer])
  const image = (name: string) => dockerArchive({ layers: [layer], names: [name] })

  beforeAll(async () => {
    hostile = await createHostileBench()
  })
  afterEach(async () => {
    await hostile.expectUnharmed()
  })
  afterAll(() => hostile[Symbol.asyncDispose]())

  const load = (archive: Buffer) => ['ctr-img', 'load', '-i', hostile.file(archive)]

  /** Refused, with nothing in the store that was not there before. */
  async function refused(archive: Buffer, message: RegExp): Promise<void> {
    const before = (await hostile.bench.images()).length
    const began = hostile.peakMemory()
    await hostile.refused({ message }, ...load(archive))
    expect(await hostile.bench.images()).toHaveLength(before)
    expect(hostile.peakMemory() - began).toBeLessThan(256 << 20)
  }

  /** A docker archive with this manifest.json and these further members. */
  const docker = (manifest: unknown, ...members: readonly Buffer[]) =>
    Buffer.concat([
      ...members,
      tarFile('layer-0.tar', layer),
      tarFile(`${digestHex(digestOf(config))}.json`, config),
      tarFile('manifest.json', Buffer.isBuffer(manifest) ? manifest : json(manifest)),
      tarEnd,
    ])
  const entry = (more: object) => [
    { Config: `${digestHex(digestOf(config))}.json`, RepoTags: null, Layers: ['layer-0.tar'], ...more },
  ]
  const oci = (manifest: Buffer, ...blobs: readonly Buffer[]) =>
    ociLayout([layer, config, manifest, ...blobs], {
      schemaVersion: 2,
      manifests: [descriptorOf(manifest, ociTypes.manifest)],
    })
  const manifestOf = (more: object) =>
    json({
      schemaVersion: 2,
      mediaType: ociTypes.manifest,
      config: descriptorOf(config, ociTypes.config),
      layers: [descriptorOf(layer, ociTypes.layer)],
      ...more,
    })

  describe('have limits (S38)', () => {
    const mebibyte = 1 << 20
    test('of size', async () => {
      const spaces = (size: number) => Buffer.concat([Buffer.alloc(size, ' '), json(entry({}))])
      await refused(docker(spaces(2 * mebibyte)), /manifest\.json.*(larger|more|limit)/i)
      await refused(docker(spaces(100 * mebibyte)), /manifest\.json.*(larger|more|limit)/i)
      const large = configOf([layer], { author: 'x'.repeat(5 * mebibyte) })
      await refused(dockerArchive({ layers: [layer], config: large }), /larger|more|limit/i)
      await refused(oci(manifestOf({ annotations: { a: 'x'.repeat(5 * mebibyte) } })), /larger|more|limit/i)
    })

    test('of depth', async () => {
      const deep = (open: string, close: string) => Buffer.from(open.repeat(100_000) + close.repeat(100_000))
      await refused(docker(deep('[', ']')), /manifest\.json/)
      await refused(docker(deep('{"a":', '}')), /manifest\.json|JSON/)
      const nested = Buffer.from(`{"config":${'['.repeat(100_000)}${']'.repeat(100_000)}}`)
      await refused(dockerArchive({ layers: [layer], config: nested }), /./)
    })

    test('of length', async () => {
      const many = Array.from({ length: 100_000 }, () => 'layer-0.tar')
      await refused(docker(entry({ Layers: many })), /manifest\.json.* bytes/)
      await refused(docker(entry({ Layers: many.slice(0, 50_000) })), /lists 50000 layers/)
      await refused(
        oci(
          manifestOf({ layers: Array.from({ length: 10_000 }, () => descriptorOf(layer, ociTypes.layer)) }),
        ),
        /layers/i,
      )
      const history = Array.from({ length: 100 }, () => ({ created_by: 'x' }))
      // As for docker a history may say anything; what is built on it must still fit together.
      const told = dockerArchive({
        layers: [layer],
        names: ['told:1'],
        config: configOf([layer], { history }),
      })
      await hostile.accepted(...load(told))
      await hostile.accepted(...hostile.buildOf('FROM told:1\nCOPY Dockerfile /\n'), '-t', 'told:2')
      const saved = join(hostile.bench.work, 'told.tar')
      await hostile.accepted('ctr-img', 'save', 'told:2', '-o', saved)
      await hostile.accepted('ctr-img', 'load', '-i', saved)
    })

    test('and special keys pollute nothing', async () => {
      for (const key of ['__proto__', 'constructor', 'prototype', 'toString']) {
        const text = `{"architecture":"amd64","os":"linux","${key}":{"polluted":"yes"},"config":{"Labels":{"${key}":"x"},"Env":["${key}=1"],"ExposedPorts":{"${key}":{}}},"rootfs":{"type":"layers","diff_ids":["${digestOf(layer)}"]}}`
        await hostile.client(
          ...load(dockerArchive({ layers: [layer], names: ['polluted:1'], config: Buffer.from(text) })),
        )
        await hostile.client(...hostile.buildOf('FROM polluted:1\nLABEL a=b\n'))
      }
      expect(await hostile.accepted('ctr-img', 'images')).not.toContain('polluted":"yes')
      const duplicate = Buffer.from(
        `[{"Config":"x","Config":"../../../etc/passwd","Layers":["layer-0.tar"]}]`,
      )
      await refused(docker(duplicate), /passwd/)
    })

    test('and anything that is no such document is refused', async () => {
      for (const text of [
        '',
        'null',
        '{}',
        '[]',
        '[null]',
        '[[]]',
        '1',
        '"x"',
        '[{}]',
        '{"a":',
        '\ufeff[]',
        '[{"Config":1}]',
      ]) {
        await refused(docker(Buffer.from(text)), /manifest\.json|JSON|"Config"/)
      }
      for (const text of [
        '',
        'null',
        '[]',
        '{"rootfs":null}',
        '{"rootfs":{"diff_ids":"x"}}',
        '{"rootfs":{"diff_ids":[1]}}',
      ]) {
        await refused(dockerArchive({ layers: [layer], config: Buffer.from(text) }), /./)
      }
    })
  })

  describe('name members of the archive only (S39)', () => {
    test.each([
      ['a configuration above it', { Config: '../../etc/passwd' }],
      ['a configuration of the host', { Config: '/etc/passwd' }],
      ['a layer of the host', { Layers: ['/etc/passwd'] }],
      ['a layer above it', { Layers: ['../../../../../../etc/passwd'] }],
      ['a member that is not there', { Layers: ['missing'] }],
      ['a name with NUL', { Layers: ['layer-0.tar\0'] }],
      ['an empty name', { Layers: [''] }],
    ])('%s is refused', async (_what, more) => {
      await refused(docker(entry(more)), /not in the archive|leads out|archive/)
    })

    test('links to the host lead nowhere', async () => {
      const { canary, climbing } = hostile
      for (const [type, target] of [
        ['symlink', `${canary}/secret`],
        ['hardlink', `${canary}/secret`],
        ['symlink', climbing.slice(0, 80)],
        ['symlink', 'evil.tar'],
      ] as const) {
        const link = tarEntry('evil.tar', type, target)
        await refused(docker(entry({ Layers: ['evil.tar'] }), link), /evil\.tar|archive/)
        await refused(docker(entry({ Config: 'evil.tar' }), link), /evil\.tar|archive/)
      }
      const manifest = tarEntry('manifest.json', 'symlink', `${canary}/secret`)
      await refused(Buffer.concat([manifest, tarEnd]), /manifest\.json|archive/)
    })

    test('the same layer twice is one layer twice', async () => {
      const twice = dockerArchive({ layers: [layer, layer], names: ['twice:1'] })
      await hostile.accepted(...load(twice))
      await hostile.accepted(...hostile.buildOf('FROM twice:1\nCOPY Dockerfile /\n'))
    })

    test('a legacy archive of names alone says what is missing', async () => {
      const repositories = json({ a: { latest: '../../../etc' } })
      await refused(Buffer.concat([tarFile('repositories', repositories), tarEnd]), /manifest\.json/)
    })
  })

  describe('tell the truth about digests and sizes (S40)', () => {
    const other = layerTar(tarFile('other', 'x'))
    test('of layers and configurations', async () => {
      const promised = configOf([layerTar(tarFile('never', 'stored'))])
      await refused(dockerArchive({ layers: [other], config: promised }), /diff ID|digest/)
      await refused(dockerArchive({ layers: [layer, layer], config }), /layers/)
      const lying = docker(
        entry({ Config: `${'0'.repeat(64)}.json` }),
        tarFile(`${'0'.repeat(64)}.json`, config),
      )
      await refused(lying, /digest/)
      const foreign = {
        config: descriptorOf(promised, ociTypes.config),
        layers: [descriptorOf(other, ociTypes.layer)],
      }
      await refused(oci(manifestOf(foreign), other, promised), /diff ID|digest/)
      await refused(
        oci(manifestOf({ layers: [descriptorOf(layer, ociTypes.layer, { size: 1 })] })),
        /size|bytes/,
      )
    })

    test.each([
      'sha256:../../../../../etc/passwd',
      `sha256:${'A'.repeat(64)}`,
      `sha256:${'a'.repeat(63)}`,
      `sha256:${'a'.repeat(65)}`,
      `md5:${'a'.repeat(32)}`,
      `sha512:${'a'.repeat(128)}`,
      `sha256:${'a'.repeat(64)}/..`,
      'sha256:',
      '',
      '..',
    ])('written as "%s" are refused before anything is looked for', async (digest) => {
      await refused(oci(manifestOf({ layers: [descriptorOf(layer, ociTypes.layer, { digest })] })), /digest/)
      await refused(oci(manifestOf({ config: descriptorOf(config, ociTypes.config, { digest }) })), /digest/)
      const rootfs = { type: 'layers', diff_ids: [digest] }
      await refused(dockerArchive({ layers: [layer], config: configOf([layer], { rootfs }) }), /digest|diff/)
      const index = { schemaVersion: 2, manifests: [{ mediaType: ociTypes.manifest, digest, size: 1 }] }
      await refused(ociLayout([layer, config], index), /digest/)
    })
  })

  describe('are one thing or the other (S41, CVE-2021-41190)', () => {
    test('a manifest that is an index as well is refused', async () => {
      const both = manifestOf({ manifests: [descriptorOf(layer, ociTypes.manifest)] })
      await refused(oci(both), /both|ambiguous|manifests/)
      const index = json({
        schemaVersion: 2,
        mediaType: ociTypes.index,
        manifests: [],
        layers: [],
        config: {},
      })
      await refused(
        ociLayout([index], { schemaVersion: 2, manifests: [descriptorOf(index, ociTypes.index)] }),
        /./,
      )
    })

    test('a document whose type is not the one announced is refused', async () => {
      await refused(oci(manifestOf({ mediaType: ociTypes.index })), /type|index/)
      const manifest = ociManifest(config, [layer])
      const index = { schemaVersion: 2, manifests: [descriptorOf(manifest, ociTypes.index)] }
      await refused(ociLayout([layer, config, manifest], index), /type|index/)
    })

    test('indexes in indexes end', async () => {
      const blobs: Buffer[] = [ociManifest(config, [layer])]
      let top = descriptorOf(blobs[0] ?? layer, ociTypes.manifest)
      for (let depth = 0; depth < 50; depth += 1) {
        const index = json({ schemaVersion: 2, mediaType: ociTypes.index, manifests: [top] })
        blobs.push(index)
        top = descriptorOf(index, ociTypes.index)
      }
      await refused(
        ociLayout([layer, config, ...blobs], { schemaVersion: 2, manifests: [top] }),
        /deep|nested/,
      )
      let wide = descriptorOf(ociManifest(config, [layer]), ociTypes.manifest)
      const levels: Buffer[] = [ociManifest(config, [layer])]
      for (let level = 0; level < 3; level += 1) {
        const index = json({
          schemaVersion: 2,
          mediaType: ociTypes.index,
          manifests: Array.from({ length: 60 }, () => wide),
        })
        levels.push(index)
        wide = descriptorOf(index, ociTypes.index)
      }
      await hostile.client(
        ...load(ociLayout([layer, config, ...levels], { schemaVersion: 2, manifests: [wide] })),
      )
    })
  })

  describe('give names that are names (S42)', () => {
    test.each([
      '../x:1',
      '/abs:1',
      'UPPER:1',
      'a b:1',
      'a:',
      `a:${'x'.repeat(129)}`,
      `${'a'.repeat(300)}:1`,
      'a\n:1',
      'a\x1b[2J:1',
      `a@sha256:${'a'.repeat(64)}`,
      'a'.repeat(64),
    ])('%j is refused', async (name) => {
      await refused(image(name), /name|reference|archive/)
    })

    test('ten thousand of them are taken, or refused at once', async () => {
      const names = Array.from({ length: 10_000 }, (_, i) => `many:t${i}`)
      await hostile.client(...load(dockerArchive({ layers: [layer], names })))
      await hostile.client('ctr-img', 'rm', 'many:t0')
    })

    test('a name that reads like an ID hides no image', async () => {
      const [some] = await hostile.bench.images()
      const id = some?.id.replace('sha256:', '') ?? ''
      expect(id).toMatch(/^[0-9a-f]{64}$/)
      for (const name of [`${id.slice(0, 12)}:latest`, `${id.slice(0, 6)}:latest`]) {
        const extra = layerTar(tarFile('extra', name))
        await hostile.client(...load(dockerArchive({ layers: [extra], names: [name] })))
      }
      await hostile.accepted('ctr-img', 'tag', id.slice(0, 12), 'found:1')
      const found = (await hostile.bench.images()).find(({ names }) =>
        names.some((name) => name.endsWith('found:1')),
      )
      expect(found?.id).toBe(some?.id)
    })

    test('a tag of somebody else moves only with its image', async () => {
      await hostile.accepted('ctr-img', 'tag', 'base:1', 'theirs:latest')
      const broken = dockerArchive({ layers: [rawTar({ name: '../x' })], names: ['theirs:latest'] })
      await refused(broken, /leads out/)
      const of = async () =>
        (await hostile.bench.images()).filter(({ names }) =>
          names.some((name) => name.endsWith('theirs:latest')),
        )
      const [before] = await of()
      expect(before?.id).toBeDefined()
      await hostile.accepted(...load(image('theirs:latest')))
      const after = await of()
      expect(after).toHaveLength(1)
      expect(after[0]?.id).not.toBe(before?.id)
    })
  })
})
