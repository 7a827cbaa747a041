import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { builderService } from '@isula-build/shared/rpc/builder.js'
import type { Invocation } from '../cli/command.js'
import { withConnection } from '../session.js'
import { printLine } from '../terminal.js'

export async function runTag({ flags, args }: Invocation): Promise<number> {
  const [image, name] = args
  if (image === undefined || name === undefined || args.length !== 2) {
    throw new BuilderError('ISB_ARGUMENT_INVALID', 'invalid args for tag command', {
      hint: 'isula-build ctr-img tag SOURCE TARGET',
    })
  }
  await withConnection(flags, (connection) => connection.unary(builderService.Tag, { image, name }))
  printLine(`Tag ${name} to image ${image} succeed`)
  return 0
}
