import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { errorOfDetail } from '@isula-build/shared/errors/wire.js'
import { builderService } from '@isula-build/shared/rpc/builder.js'
import type { Invocation } from '../cli/command.js'
import { withConnection } from '../session.js'
import { printLine, warnLine } from '../terminal.js'

export async function runRemove({ flags, args }: Invocation): Promise<number> {
  const all = flags.bool('all')
  const prune = flags.bool('prune')
  if (all && args.length > 0) throw invalid('imageID/name is not allowed when using --all')
  if (prune && args.length > 0) throw invalid('imageID/name is not allowed when using --prune')
  if (all && prune) throw invalid('--prune is not allowed when using --all')
  if (!all && !prune && args.length === 0) throw invalid('imageID/name must be specified')
  return await withConnection(flags, async (connection) => {
    for await (const { event } of connection.stream(builderService.Remove, { images: args, all, prune })) {
      switch (event?.case) {
        case 'untagged':
          printLine(`Untagged image: ${event.value}`)
          break
        case 'deletedLayer':
          printLine(`Deleted layer: ${event.value}`)
          break
        case 'deletedImage':
          printLine(`Deleted image: ${event.value}`)
          break
        case 'failed': {
          const { image, error } = event.value
          const cause = error === undefined ? undefined : errorOfDetail(error)
          const verb = cause?.code === 'ISB_IMAGE_NOT_FOUND' ? 'Find local' : 'Remove'
          warnLine(`${verb} image ${JSON.stringify(image)} failed: ${cause?.message ?? 'unknown cause'}`)
          break
        }
        case undefined:
          break
      }
    }
    return 0
  })
}

function invalid(message: string): BuilderError {
  return new BuilderError('ISB_ARGUMENT_INVALID', message)
}
