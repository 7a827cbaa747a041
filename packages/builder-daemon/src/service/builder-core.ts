import type { DaemonConfig } from '../config/daemon-config.js'
import type { TransportKey } from '../config/transport-key.js'
import type { ImageStore } from '../ports/image-store.js'
import type { ManifestListStore } from '../ports/manifest-lists.js'
import type { BuilderCore } from '../rpc/handlers.js'
import { type ArchiveDeps, importImage, loadImages } from './archive-operations.js'
import type { BuildOperations } from './build-operations.js'
import type { CacheCollector } from './cache-collector.js'
import { listImages, removeImages, tagImage } from './image-operations.js'
import { daemonInfo, daemonVersion } from './information.js'
import { createListOperations } from './list-operations.js'
import { pullToStore } from './pull-operations.js'
import type { PushDeps } from './push-operations.js'
import { saveImages } from './save-operations.js'

export interface CoreDeps {
  readonly config: DaemonConfig
  readonly buildInfo: { readonly version: string; readonly commit: string; readonly builtAt: number }
  readonly images: ImageStore
  readonly lists: ManifestListStore
  readonly archives: ArchiveDeps
  readonly builds: BuildOperations
  readonly key: TransportKey
  readonly transfers: PushDeps & { readonly logins: Pick<BuilderCore, 'login' | 'logout'> }
  readonly collector: Pick<CacheCollector, 'prune'>
}

/** Everything the edges can ask for, as one table. */
export function createBuilderCore(deps: CoreDeps): BuilderCore {
  const { images, lists, archives, builds, config, transfers } = deps
  return {
    startBuild: async (options, client, caller, signal) => builds.start(options, client, caller, signal),
    images: () => listImages(images, lists),
    tag: (image, name, caller) => tagImage({ images, lists }, image, name, caller),
    remove: (request, caller, signal) => removeImages({ images, lists }, request, caller, signal),
    import: (request, caller, signal) => importImage(archives, request, caller, signal),
    load: (request, caller, signal) => loadImages(archives, request, caller, signal),
    save: (request, caller, signal) => saveImages(archives, request, caller, signal),
    pull: (request, client, caller, signal) => pullToStore(transfers, request, client, caller, signal),
    ...transfers.logins,
    ...createListOperations({ ...transfers, lists }),
    info: async () => daemonInfo(config, transfers.services.rules.lists, builds.active.count),
    version: () => daemonVersion(deps.buildInfo),
    builds: async (caller) => builds.active.visibleTo(caller),
    cancelBuild: async (id, caller) => builds.active.cancel(id, caller),
    prune: (request, caller, signal) => deps.collector.prune(request, caller, signal),
    decrypt: (hex) => deps.key.decrypt(hex),
  }
}
