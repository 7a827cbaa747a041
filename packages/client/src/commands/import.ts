import { statSync } from 'node:fs'
import { resolve } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { builderService } from '@isula-build/shared/rpc/builder.js'
import { displayLine } from '@isula-build/shared/text/display-line.js'
import type { Invocation } from '../cli/command.js'
import { fileError } from '../file-error.js'
import { withConnection } from '../session.js'
import { printLine } from '../terminal.js'
import { uploading } from '../upload.js'

/** Bytes. */
const fileLimit = 1024 ** 3

export async function runImport({ flags, args }: Invocation): Promise<number> {
  const [file, reference = ''] = args
  if (file === undefined || args.length > 2) {
    throw new BuilderError('ISB_ARGUMENT_INVALID', 'requires at least one argument and at most two', {
      hint: 'isula-build ctr-img import FILE [REPOSITORY[:TAG]]',
    })
  }
  if (file !== '-') checkFile(file)
  return await withConnection(flags, async (connection) => {
    const call = connection.duplex(builderService.Import)
    const source =
      file === '-'
        ? ({ case: 'stream', value: {} } as const)
        : ({ case: 'path', value: resolve(file) } as const)
    await call.write({ payload: { case: 'options', value: { source: { source }, reference } } })
    if (file !== '-') call.end()
    const responses = file === '-' ? uploading(call, process.stdin) : call.responses
    for await (const { event } of responses) {
      if (event?.case === 'log') printLine(displayLine(event.value))
      if (event?.case === 'image') printLine(`Import success with image id: "${event.value.id}"`)
    }
    return 0
  })
}

function checkFile(path: string): void {
  let stat: ReturnType<typeof statSync>
  try {
    stat = statSync(path)
  } catch (error) {
    throw fileError(error, path)
  }
  if (!stat.isFile()) throw invalid(`${path} is not a regular file`)
  if (stat.size === 0) throw invalid(`${path} is empty`)
  if (stat.size > fileLimit) throw invalid(`file ${path} size is: ${stat.size}, exceeds limit ${fileLimit}`)
}

function invalid(message: string): BuilderError {
  return new BuilderError('ISB_ARGUMENT_INVALID', message)
}
