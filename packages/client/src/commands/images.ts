import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { splitLocalName } from '@isula-build/shared/oci/local-name.js'
import { builderService } from '@isula-build/shared/rpc/builder.js'
import { formatSize } from '@isula-build/shared/text/units.js'
import type { Invocation } from '../cli/command.js'
import { decodeImages } from '../output/image-list.js'
import { emptyImageTable, formatTable } from '../output/table.js'
import { withConnection } from '../session.js'
import { printLine, printText } from '../terminal.js'

const listing = {
  ...builderService.Images,
  responseDeserialize: (bytes: Buffer) => ({ images: decodeImages(bytes) }),
}

export async function runImages({ flags, args }: Invocation): Promise<number> {
  if (args.length > 1) {
    throw new BuilderError('ISB_ARGUMENT_INVALID', 'isula-build images requires at most one argument')
  }
  const { images } = await withConnection(flags, (connection) =>
    connection.unary(listing, { filter: args[0] ?? '' }),
  )
  if (flags.bool('quiet')) {
    if (images.length > 0) printLine(images.map(({ id }) => id).join('\n'))
    return 0
  }
  if (images.length === 0) {
    printLine(emptyImageTable)
    return 0
  }
  const rows: string[][] = []
  let shown = { createdAt: Number.NaN, time: '', size: Number.NaN, sizeText: '' }
  for (const { id, names, createdAt, size } of images) {
    // Images come by time, and many of one moment often.
    if (createdAt !== shown.createdAt) shown = { ...shown, createdAt, time: timeText(createdAt) }
    if (size !== shown.size) shown = { ...shown, size, sizeText: formatSize(size, 1000) }
    const { time, sizeText } = shown
    const shortId = id.slice(0, 12)
    if (names.length === 0) rows.push(['<none>', '<none>', shortId, time, sizeText])
    for (const name of names) {
      const { repository, tag } = splitLocalName(name)
      rows.push([repository, tag, shortId, time, sizeText])
    }
  }
  for (const piece of formatTable(['REPOSITORY', 'TAG', 'IMAGE ID', 'CREATED', 'SIZE'], rows))
    printText(piece)
  return 0
}

/** `YYYY-MM-DD HH:MM:SS` in local time. */
function timeText(milliseconds: number): string {
  const time = new Date(milliseconds)
  const date = `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())}`
  return `${date} ${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}`
}

function two(value: number): string {
  return value < 10 ? `0${value}` : `${value}`
}
