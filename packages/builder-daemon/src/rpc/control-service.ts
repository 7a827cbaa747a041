import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { splitLocalName } from '@isula-build/shared/oci/local-name.js'
import { controlService } from '@isula-build/shared/rpc/control.js'
import { displayLine } from '@isula-build/shared/text/display-line.js'
import { formatSize } from '@isula-build/shared/text/units.js'
import type { Caller } from '../ports/caller.js'
import { type BoundService, bindService } from './adapter.js'
import { removedBy, storedBy } from './audit-facts.js'
import { absentClient, controlBuildOptions } from './control-build.js'
import { controlLoad, controlRemove, controlSave } from './control-images.js'
import { controlRegistries } from './control-registries.js'
import type { BuilderCore, RemoveEvent, RunningBuild } from './handlers.js'
import { selectImages } from './image-selection.js'
import { createLogText } from './log-text.js'
import { createRendezvous } from './rendezvous.js'
import { checkBuildId, checkPath, orUndefined } from './request-checks.js'

/** How long a finished build waits for its watchers to have read everything. */
const farewellMs = 5_000

/** `isula.build.v1.Control`: what the original's client speaks. */
export function createControlService(core: BuilderCore): BoundService {
  const builds = createRendezvous<{ running: RunningBuild; iidFile: string | undefined }>()
  // An ID is the user's own: nobody watches what another one builds.
  const keyOf = (caller: Caller, id: string): string => `${caller.uid}/${id}`

  return bindService(controlService, {
    async Build(request, { caller, signal, note }) {
      const options = controlBuildOptions(request, core.decrypt)
      const host = builds.host(keyOf(caller, request.buildID))
      try {
        await host.company(signal)
        const running = await core.startBuild(options, absentClient, caller, signal)
        host.present({ running, iidFile: options.iidFile })
        try {
          const { imageId } = await running.result
          note({ results: [imageId] })
          return { imageID: imageId }
        } finally {
          await host.farewell(farewellMs)
        }
      } finally {
        host.leave()
      }
    },

    async *Status(request, { caller, signal }) {
      const watcher = builds.watch(keyOf(caller, checkBuildId(request.buildID)))
      try {
        const build = await watcher.build(signal)
        if (build === undefined) return
        const textOf = createLogText(build.iidFile)
        for await (const event of build.running.events(signal)) {
          const content = textOf(event)
          if (content !== '') yield { content }
        }
      } finally {
        watcher.leave()
      }
    },

    async List(request, { caller }) {
      const rows = selectImages(await core.images(caller), request.imageName)
      return {
        images: rows.map(({ image, name }) => ({
          ...(name === undefined ? { repository: '<none>', tag: '<none>' } : splitLocalName(name)),
          id: image.id,
          created: new Date(image.createdAt).toISOString().slice(0, 19).replace('T', ' '),
          size: formatSize(image.size, 1000),
        })),
      }
    },

    async Tag(request, { caller }) {
      await core.tag(request.image, request.tag, caller)
      return {}
    },

    async *Remove(request, { caller, signal, note }) {
      let failed: BuilderError | undefined
      for await (const event of core.remove(controlRemove(request), caller, signal)) {
        note({ results: removedBy(event) })
        if (event.kind === 'failed') failed ??= event.error
        yield { layerMessage: removeText(event) }
      }
      if (failed !== undefined) throw new BuilderError(failed.code, 'remove one or more images failed')
    },

    async *Import(request, { caller, signal, note }) {
      const source = { kind: 'file', path: checkPath(request.source, 'tarball') } as const
      const reference = orUndefined(request.reference)
      for await (const event of core.import({ source, reference }, caller, signal)) {
        note({ results: storedBy(event) })
        if (event.kind === 'log') yield { log: `${displayLine(event.line)}\n` }
        else yield { log: `Import success with image id: "${event.imageId}"\n` }
      }
    },

    async *Load(request, { caller, signal, note }) {
      for await (const event of core.load(controlLoad(request), caller, signal)) {
        note({ results: storedBy(event) })
        yield {
          log: event.kind === 'log' ? `${displayLine(event.line)}\n` : `Loaded image as ${event.imageId}\n`,
        }
      }
    },

    async *Save(request, { caller, signal }) {
      for await (const event of core.save(controlSave(request), caller, signal)) {
        if (event.kind === 'log') yield { log: `${displayLine(event.line)}\n` }
      }
    },

    async Info(request, { caller }) {
      const info = await core.info(caller)
      const { memory } = info
      return {
        memInfo: {
          memTotal: info.memTotal,
          memFree: info.memFree,
          swapTotal: info.swapTotal,
          swapFree: info.swapFree,
        },
        storageInfo: { storageDriver: info.storageDriver, storageBackingFs: info.backingFilesystem },
        registryInfo: {
          registriesSearch: info.searchRegistries,
          registriesInsecure: info.insecureRegistries,
          registriesBlock: info.blockedRegistries,
        },
        dataRoot: info.dataRoot,
        runRoot: info.runRoot,
        OCIRuntime: info.runtime,
        builderNum: info.builds,
        goRoutines: info.threads,
        experimental: info.experimental,
        memStat: request.verbose
          ? {
              memSys: memory.system,
              heapSys: memory.heapSystem,
              heapAlloc: memory.heapAllocated,
              heapInUse: memory.heapInUse,
              heapIdle: memory.heapIdle,
              heapReleased: memory.heapReleased,
            }
          : undefined,
      }
    },

    Version() {
      const { version, runtimeVersion, gitCommit, builtAt, platform } = core.version()
      return { version, goVersion: runtimeVersion, gitCommit, buildTime: ansiDate(builtAt), osArch: platform }
    },

    HealthCheck: () => ({ status: 'SERVING' }),

    ...controlRegistries(core),
  })
}

function removeText(event: RemoveEvent): string {
  switch (event.kind) {
    case 'untagged':
      return `Untagged image: ${event.name}`
    case 'layer-removed':
      return `Deleted layer: ${event.diffId}`
    case 'image-removed':
      return `Deleted image: ${event.reference}`
    case 'failed': {
      const { code, message } = event.error
      const found = code !== 'ISB_IMAGE_NOT_FOUND' && code !== 'ISB_REFERENCE_INVALID'
      return `${found ? 'Remove' : 'Find local'} image ${JSON.stringify(event.reference)} failed: ${message}`
    }
  }
}

const days = ['Sun', 'Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat']
const months = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec']

/** As asctime(3) prints local time: `Tue Mar 30 11:08:00 2021`. */
function ansiDate(millis: number): string {
  const date = new Date(millis)
  const day = String(date.getDate()).padStart(2)
  const time = [date.getHours(), date.getMinutes(), date.getSeconds()]
    .map((part) => String(part).padStart(2, '0'))
    .join(':')
  return `${days[date.getDay()]} ${months[date.getMonth()]} ${day} ${time} ${date.getFullYear()}`
}
