import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { ImageResolver, ResolvedImage } from '../../ports/image-resolver.js'
import type { ImageStore } from '../../ports/image-store.js'
import type { LayerStore, Lease } from '../../ports/layer-store.js'
import { resolveLocalImage } from '../images/resolve.js'

/**
 * Names mean local images; each is looked up once per build, so it means the same image throughout. The
 * layers of an image are held, and with that known to be intact, before the build looks into them.
 */
export function createLocalResolver(
  { images, layers }: { readonly images: ImageStore; readonly layers: Pick<LayerStore, 'hold'> },
  lease: Lease,
  host: { readonly os: string; readonly architecture: string },
): ImageResolver {
  const resolved = new Map<string, Promise<ResolvedImage>>()

  async function find(reference: string, platform: string | undefined): Promise<ResolvedImage> {
    const record = await resolveLocalImage(images, reference, lease)
    if (record === undefined) {
      throw new BuilderError('ISB_IMAGE_NOT_FOUND', `image "${reference}" not found in local store`)
    }
    const [os, architecture = host.architecture] = (platform ?? host.os).split('/')
    for (const [what, have, want] of [
      ['operating system', record.config.os, os],
      ['architecture', record.config.architecture, architecture],
    ]) {
      if (have === want) continue
      throw new BuilderError(
        'ISB_PLATFORM_UNSUPPORTED',
        `image "${reference}": the ${what} does not match, have "${have}" want "${want}"`,
      )
    }
    const ids = record.layers.map(({ id }) => id)
    try {
      await layers.hold(ids, lease)
    } catch (cause) {
      if (!isBuilderError(cause, 'ISB_IMAGE_DAMAGED')) throw cause
      throw new BuilderError('ISB_IMAGE_DAMAGED', `image "${reference}": ${cause.message}`, { cause })
    }
    return { id: record.id, reference, config: record.config, layers: ids }
  }

  return {
    resolve(reference, platform) {
      const key = `${reference}\0${platform ?? ''}`
      const known = resolved.get(key)
      if (known !== undefined) return known
      const promise = find(reference, platform)
      resolved.set(key, promise)
      return promise
    },
  }
}
