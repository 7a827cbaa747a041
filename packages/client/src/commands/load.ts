import { statSync } from 'node:fs'
import { resolve } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { builderService } from '@isula-build/shared/rpc/builder.js'
import { displayLine } from '@isula-build/shared/text/display-line.js'
import type { FlagReader, Invocation } from '../cli/command.js'
import { fileError } from '../file-error.js'
import { withConnection } from '../session.js'
import { printLine } from '../terminal.js'
import { uploading } from '../upload.js'

const prefix = 'check load options failed: '

/** Bytes. */
const archiveLimit = 50 * 1024 ** 3

export async function runLoad({ flags }: Invocation): Promise<number> {
  const input = flags.string('input')
  const separated = ['base', 'lib', 'dir', 'no-check'].some((name) => flags.has(name))
  if (separated) return await loadSeparated(input, flags)
  if (input === '') throw failed('tarball path should not be empty')
  if (input !== '-') checkFile(input)
  return await withConnection(flags, async (connection) => {
    const call = connection.duplex(builderService.Load)
    const source =
      input === '-'
        ? ({ case: 'stream', value: {} } as const)
        : ({ case: 'path', value: resolve(input) } as const)
    await call.write({
      payload: { case: 'options', value: { source: { case: 'archive', value: { source } } } },
    })
    if (input !== '-') call.end()
    await printLoaded(input === '-' ? uploading(call, process.stdin) : call.responses)
    return 0
  })
}

async function loadSeparated(app: string, flags: FlagReader): Promise<number> {
  if (app === '') throw failed('app image name(-i) should not be empty')
  if (flags.string('dir') === '') throw failed('image tarball directory should not be empty')
  const [base, lib] = [flags.string('base'), flags.string('lib')]
  if (base !== '' && base === lib) throw failed('base and lib tarballs are the same')
  return await withConnection(flags, async (connection) => {
    const call = connection.duplex(builderService.Load)
    const value = {
      app,
      directory: resolve(flags.string('dir')),
      base: base === '' ? '' : resolve(base),
      lib: lib === '' ? '' : resolve(lib),
      skipCheck: flags.bool('no-check'),
    }
    await call.write({ payload: { case: 'options', value: { source: { case: 'separated', value } } } })
    call.end()
    await printLoaded(call.responses)
    return 0
  })
}

async function printLoaded(
  responses: AsyncIterable<{
    event?: { case: 'log'; value: string } | { case: 'image'; value: { id: string } } | undefined
  }>,
): Promise<void> {
  for await (const { event } of responses) {
    if (event?.case === 'log') printLine(displayLine(event.value))
    if (event?.case === 'image') printLine(`Loaded image as ${event.value.id}`)
  }
}

function checkFile(path: string): void {
  let stat: ReturnType<typeof statSync>
  try {
    stat = statSync(path)
  } catch (error) {
    throw fileError(error, path, prefix)
  }
  if (!stat.isFile()) throw failed(`${path} is not a regular file`)
  if (stat.size === 0) throw failed(`${path} is empty`)
  if (stat.size > archiveLimit)
    throw failed(`file ${path} size is: ${stat.size}, exceeds limit ${archiveLimit}`)
}

function failed(reason: string): BuilderError {
  return new BuilderError('ISB_ARGUMENT_INVALID', `${prefix}${reason}`)
}
