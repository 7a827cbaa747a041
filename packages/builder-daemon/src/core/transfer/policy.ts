import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { canonicalName, formatFamiliar, type ImageReference } from '@isula-build/shared/oci/reference.js'
import type { LocalImage } from './local-image.js'
import { firstThat, nameOf, registryCall, withoutPatience } from './locate.js'
import type { TransferCall, TransferServices } from './transfer.js'

/**
 * Which images are asked for at their registries. `missing`: what is not here; `newer`: and what the registry has in
 * another version, if it answers; `always`: every name, and then the registry's answer is what counts; `never`: none.
 */
export type PullPolicy = 'always' | 'missing' | 'newer' | 'never'

/**
 * Whether the image that is here will do under the policy. One that was named by ID or digest always does. Under
 * `newer`, a registry that cannot be asked is a warning.
 */
export async function isGoodEnough(
  local: LocalImage,
  policy: PullPolicy,
  services: TransferServices,
  call: TransferCall,
): Promise<boolean> {
  if (local.name === undefined || policy === 'never' || policy === 'missing') return true
  // Names below `localhost/` are given to what was built here.
  if (local.name.domain === 'localhost') return true
  return policy === 'newer' && (await isNewest(local, local.name, services, call))
}

async function isNewest(
  { record }: LocalImage,
  name: ImageReference,
  services: TransferServices,
  call: TransferCall,
): Promise<boolean> {
  try {
    // What is here will do, so nobody waits for a registry that is away.
    const once = { ...call, ...withoutPatience(registryCall(call)) }
    const { value: head } = await firstThat(
      services.rules.endpoints(name),
      once,
      async (endpoint, asking) => {
        const found = await services.client.manifestHead(endpoint, name.tag ?? 'latest', asking)
        if (found !== undefined) return found
        throw new BuilderError('ISB_IMAGE_NOT_FOUND', `${nameOf(endpoint)} has no ${formatFamiliar(name)}`)
      },
    )
    const known = await services.memory.digestsOf(record.id, canonicalName(name))
    return known.includes(head.digest)
  } catch (error) {
    if (!isBuilderError(error) || error.code === 'ISB_CANCELLED') throw error
    if (error.code === 'ISB_IMAGE_NOT_FOUND') return true
    call.onLog(
      `[Warning] Using the local ${formatFamiliar(name)}, its registry cannot be asked: ${error.message}`,
    )
    return true
  }
}
