import {
  configOf,
  descriptorOf,
  dockerArchive,
  ociLayout,
  ociManifest,
  ociTypes,
} from '../../packages/builder-daemon/src/export/test-archives.js'
import type { HostileBench } from './hostile-bench.js'

/** The ways by which a tar that somebody made gets into the store. */
export const doors = ['docker', 'oci', 'add', 'import'] as const
export type Door = (typeof doors)[number]

export interface Offer {
  /** Client arguments that offer it. */
  readonly args: readonly string[]
  /** What the image is called if it is taken. */
  readonly name: string
}

let offers = 0

/**
 * A tar as the top layer of an image. `stored` are its bytes as they are handed over, perhaps compressed;
 * `below` are layers under it, where the door has room for them.
 */
export function offer(
  hostile: HostileBench,
  door: Door,
  tar: Buffer,
  { stored = tar, below = [] }: { readonly stored?: Buffer; readonly below?: readonly Buffer[] } = {},
): Offer {
  const name = `hostile-${offers++}:1`
  switch (door) {
    case 'docker': {
      const config = configOf([...below, tar])
      const archive = dockerArchive({ layers: [...below, stored], names: [name], config })
      return { args: ['ctr-img', 'load', '-i', hostile.file(archive)], name }
    }
    case 'oci': {
      const config = configOf([...below, tar])
      const manifest = ociManifest(config, [...below, stored])
      const descriptor = descriptorOf(manifest, ociTypes.manifest, {
        annotations: { 'org.opencontainers.image.ref.name': name },
      })
      const archive = ociLayout([...below, stored, config, manifest], {
        schemaVersion: 2,
        manifests: [descriptor],
      })
      return { args: ['ctr-img', 'load', '-i', hostile.file(archive)], name }
    }
    case 'import':
      return { args: ['ctr-img', 'import', hostile.file(stored), name], name }
    case 'add': {
      const files: Record<string, Buffer> = { 'x.tar': stored }
      const steps = ['FROM scratch']
      for (const [i, layer] of below.entries()) {
        files[`below-${i}.tar`] = layer
        steps.push(`ADD below-${i}.tar /`)
      }
      steps.push('ADD x.tar /')
      const args = hostile.buildOf(`${steps.join('\n')}\n`, files)
      return { args: [...args, '-t', name], name }
    }
  }
}
