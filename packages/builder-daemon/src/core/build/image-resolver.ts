import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Digest } from '@isula-build/shared/oci/digest.js'
import { formatPlatform, type Platform, parsePlatform } from '@isula-build/shared/oci/platform.js'
import { canonicalName, type ImageReference, tryParseReference } from '@isula-build/shared/oci/reference.js'
import type { ImageResolver, ResolvedImage } from '../../ports/image-resolver.js'
import type { ImageRecord } from '../../ports/image-store.js'
import { throwIfCancelled } from '../transfer/cancelled.js'
import { findLocalImage, findSibling, isFor, type LocalImage, platformOf } from '../transfer/local-image.js'
import { findListed } from '../transfer/local-lists.js'
import { isGoodEnough, type PullPolicy } from '../transfer/policy.js'
import { pullImage } from '../transfer/pull.js'
import type { TransferCall, TransferServices } from '../transfer/transfer.js'

/**
 * Finds what FROM, COPY --from and mounts name: in the store as far as the policy allows, else at a registry. Each name
 * is looked up once per build, so it means the same image throughout, and for all platforms the same list. The layers
 * of an image are held, and with that known to be intact, before the build looks into them.
 *
 * What is pulled gets its name, unless the name is another user's, or is here for an image of another platform: that one
 * keeps it, and the new one is found by what it came from.
 */
export function createImageResolver(
  policy: PullPolicy,
  services: TransferServices,
  call: Omit<TransferCall, 'signal'>,
): ImageResolver {
  const resolved = new Map<string, Promise<ResolvedImage>>()
  const turns = new Map<string, Promise<unknown>>()
  const pins = new Map<string, string>()

  async function find(text: string, wanted: Platform, signal: AbortSignal): Promise<ResolvedImage> {
    throwIfCancelled(signal)
    refuseTransport(text)
    const own = { ...call, signal }
    const listed = await findListed(text, wanted, services)
    // By digest it cannot mean anything else than it did for the platform before.
    const meant = listed ?? pins.get(text) ?? text
    const finding = { platform: wanted, lease: call.lease, by: 'names and IDs' as const }
    const found = await findLocalImage(meant, services, finding)
    const local = found === undefined ? undefined : await forPlatform(found, wanted)
    let damage: BuilderError | undefined
    if (local !== undefined && isFor(local.record, wanted)) {
      try {
        if (await isGoodEnough(local, policy, services, own)) return await hold(local.record, text)
      } catch (error) {
        if (!isBuilderError(error, 'ISB_IMAGE_DAMAGED')) throw error
        damage = error
      }
    }
    const problem = damage ?? (found === undefined ? undefined : mismatch(found.record, wanted, text))
    const canPull = policy !== 'never' && (found === undefined || mayBePulled(found, meant))
    if (!canPull) throw problem ?? notFound(text)
    const keepsName = found !== undefined && !isFor(found.record, wanted)
    try {
      const options = { platforms: [wanted], names: keepsName ? ('none' as const) : ('if-allowed' as const) }
      const { reference, digest, images } = await pullImage(meant, options, services, own)
      if (listed === undefined) pins.set(text, pinned(reference, digest))
      const [image] = images
      if (image === undefined) throw new Error('a pull without an image')
      return await hold(image.record, text)
    } catch (error) {
      if (problem === undefined || !isBuilderError(error) || !saysNothing.has(error.code)) throw error
      throw new BuilderError(problem.code, problem.message, { ...problem.details, cause: error })
    }
  }

  async function forPlatform(found: LocalImage, wanted: Platform): Promise<LocalImage> {
    if (isFor(found.record, wanted)) return found
    const sibling = await findSibling(found, wanted, services, call.lease)
    return sibling === undefined ? found : { record: sibling, name: found.name }
  }

  async function hold(record: ImageRecord, text: string): Promise<ResolvedImage> {
    const ids = record.layers.map(({ id }) => id)
    try {
      await services.layers.hold(ids, call.lease)
    } catch (cause) {
      if (!isBuilderError(cause, 'ISB_IMAGE_DAMAGED')) throw cause
      throw new BuilderError('ISB_IMAGE_DAMAGED', `image "${text}": ${cause.message}`, { cause })
    }
    return { id: record.id, reference: text, config: record.config, layers: ids }
  }

  return {
    resolve(reference, platform, signal) {
      const wanted = platform === undefined ? services.platform : parsePlatform(platform, services.platform)
      const key = `${reference}\0${formatPlatform(wanted)}`
      const known = resolved.get(key)
      if (known !== undefined) return known
      const before = turns.get(reference) ?? Promise.resolve()
      const look = () => find(reference, wanted, signal)
      const promise = before.then(look, look)
      turns.set(reference, promise)
      resolved.set(key, promise)
      return promise
    },
  }
}

/** Failures that leave open what the registry has: then what is wrong with the local image is what matters. */
const saysNothing: ReadonlySet<string> = new Set([
  'ISB_IMAGE_NOT_FOUND',
  'ISB_REGISTRY_DENIED',
  'ISB_REGISTRY_UNAVAILABLE',
])

/** An ID means one image of this store, and nothing at a registry. */
function mayBePulled(found: LocalImage, text: string): boolean {
  return found.name !== undefined || tryParseReference(text)?.digest !== undefined
}

function pinned(reference: ImageReference, digest: Digest): string {
  return `${canonicalName(reference)}@${digest}`
}

function notFound(text: string): BuilderError {
  return new BuilderError('ISB_IMAGE_NOT_FOUND', `image "${text}" not found in local store`)
}

/** The original's text for the architecture. */
function mismatch(record: ImageRecord, wanted: Platform, text: string): BuilderError | undefined {
  const have = platformOf(record)
  for (const [what, is, want] of [
    ['operating system', have.os, wanted.os],
    ['architecture', have.architecture, wanted.architecture],
    ['variant', have.variant ?? '', wanted.variant ?? ''],
  ]) {
    if (is === want) continue
    return new BuilderError(
      'ISB_PLATFORM_UNSUPPORTED',
      `image "${text}": the ${what} does not match, have "${is}" want "${want}"`,
    )
  }
  return undefined
}

const archives = /^(docker-archive|oci-archive|docker-daemon|containers-storage):|^(oci|dir):[./]/

function refuseTransport(text: string): void {
  const transport = archives.exec(text)
  if (transport === null) return
  const name = transport[1] ?? transport[2] ?? ''
  const isArchive = name.endsWith('-archive')
  throw new BuilderError('ISB_REFERENCE_INVALID', `"${text}": ${name} is no place to build from`, {
    hint: isArchive
      ? 'Load the archive with `isula-build ctr-img load -i` and name the image.'
      : 'Name an image of this store or of a registry.',
  })
}
