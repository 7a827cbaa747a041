import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { splitLocalName } from '@isula-build/shared/oci/local-name.js'
import { builderService } from '@isula-build/shared/rpc/builder.js'
import { formatSize } from '@isula-build/shared/text/units.js'
import type { Invocation } from '../cli/command.js'
import { emptyImageTable, formatTable } from '../output/table.js'
import { withConnection } from '../session.js'
import { printLine } from '../terminal.js'

export async function runImages({ flags, args }: Invocation): Promise<number> {
  if (args.length > 1) {
    throw new BuilderError('ISB_ARGUMENT_INVALID', 'isula-build images requires at most one argument')
  }
  const { images } = await withConnection(flags, (connection) =>
    connection.unary(builderService.Images, { filter: args[0] ?? '' }),
  )
  if (flags.bool('quiet')) {
    for (const { id } of images) printLine(id)
    return 0
  }
  if (images.length === 0) {
    printLine(emptyImageTable)
    return 0
  }
  const rows = images.flatMap(({ id, names, createdAt, size }) => {
    const rest = [id.slice(0, 12), timeText(createdAt), formatSize(size, 1000)]
    if (names.length === 0) return [['<none>', '<none>', ...rest]]
    return names.map((name) => {
      const { repository, tag } = splitLocalName(name)
      return [repository, tag, ...rest]
    })
  })
  printLine(formatTable(['REPOSITORY', 'TAG', 'IMAGE ID', 'CREATED', 'SIZE'], rows))
  return 0
}

/** `YYYY-MM-DD HH:MM:SS` in local time. */
function timeText(milliseconds: number): string {
  const time = new Date(milliseconds)
  const two = (value: number): string => String(value).padStart(2, '0')
  const date = [time.getFullYear(), two(time.getMonth() + 1), two(time.getDate())].join('-')
  return `${date} ${[time.getHours(), time.getMinutes(), time.getSeconds()].map(two).join(':')}`
}
