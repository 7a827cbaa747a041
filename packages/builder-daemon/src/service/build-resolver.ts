import { createImageResolver } from '../core/build/image-resolver.js'
import type { SessionDeps } from './build-session.js'
import { ownedImages } from './owned-images.js'
import type { PullDeps } from './pull-operations.js'

/** Images for builds come from where a pull by the same caller would get them. */
export function createResolverOpener({ services, accessFor }: PullDeps): SessionDeps['openResolver'] {
  return ({ options, client, caller, lease, onLog }) => {
    const access = accessFor(caller, client, options.transfer)
    const images = ownedImages(services.images, caller)
    const resolver = createImageResolver(options.pull, { ...services, images }, { access, lease, onLog })
    return {
      async resolve(reference, platform, stop) {
        try {
          return await resolver.resolve(reference, platform, stop)
        } catch (error) {
          throw access.explained(error)
        }
      },
    }
  }
}
