import type { DaemonConfig } from '../config/daemon-config.js'
import type { TransportKey } from '../config/transport-key.js'
import type { ImageStore } from '../ports/image-store.js'
import type { BuilderCore, PruneResult } from '../rpc/handlers.js'
import { type ArchiveDeps, importImage, loadImages } from './archive-operations.js'
import type { BuildOperations } from './build-operations.js'
import { removeImages, tagImage } from './image-operations.js'
import { daemonInfo, daemonVersion } from './information.js'
import { requirePrivilege } from './privileges.js'
import { saveImages } from './save-operations.js'

export interface CoreDeps {
  readonly config: DaemonConfig
  readonly buildInfo: { readonly version: string; readonly commit: string; readonly builtAt: number }
  readonly images: ImageStore
  readonly archives: ArchiveDeps
  readonly builds: BuildOperations
  readonly key: TransportKey
  readonly prune: () => Promise<{ readonly layers: number; readonly bytes: number }>
}

/** Everything the edges can ask for, as one table. */
export function createBuilderCore(deps: CoreDeps): BuilderCore {
  const { images, archives, builds, config } = deps
  return {
    startBuild: async (options, client, caller, signal) => builds.start(options, client, caller, signal),
    images: () => images.list(),
    tag: (image, name, caller) => tagImage(images, image, name, caller),
    remove: (request, caller, signal) => removeImages(images, request, caller, signal),
    import: (request, caller, signal) => importImage(archives, request, caller, signal),
    load: (request, caller, signal) => loadImages(archives, request, caller, signal),
    save: (request, caller, signal) => saveImages(archives, request, caller, signal),
    info: async () => daemonInfo(config, builds.active.count),
    version: () => daemonVersion(deps.buildInfo),
    builds: async (caller) => builds.active.visibleTo(caller),
    cancelBuild: async (id, caller) => builds.active.cancel(id, caller),
    async prune(_request, caller): Promise<PruneResult> {
      requirePrivilege(caller, { uids: [], gids: [] }, 'collecting the whole store')
      const { layers, bytes } = await deps.prune()
      return { freedBytes: bytes, images: 0, layers }
    },
    decrypt: (hex) => deps.key.decrypt(hex),
  }
}
