import { existsSync, statSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { builderService } from '@isula-build/shared/rpc/builder.js'
import { displayLine } from '@isula-build/shared/text/display-line.js'
import { imageFormat } from '../cli/choices.js'
import type { Invocation } from '../cli/command.js'
import { fileError } from '../file-error.js'
import { withConnection } from '../session.js'
import { printBytes, printLine, terminal } from '../terminal.js'

export async function runSave({ flags, args }: Invocation): Promise<number> {
  const separated = ['base', 'lib', 'rename', 'dest'].some((name) => flags.has(name))
  const output = flags.string('output')
  if (separated && output !== '') throw invalid('conflict flags between -o and [-b -l -r -d]')
  if (args.length === 0) throw invalid('save accepts at least one image')
  const format = imageFormat(flags, process.env)
  const toStdout = !separated && output === '-'
  const destination = separated ? separatedDestination({ flags, args }) : fileDestination(output)
  return await withConnection(flags, async (connection) => {
    const request = { images: args, format: separated ? 'docker' : format, destination }
    for await (const { event } of connection.stream(builderService.Save, request)) {
      if (event?.case === 'log' && !toStdout) printLine(displayLine(event.value))
      if (event?.case === 'chunk') await printBytes(event.value)
    }
    if (!toStdout) printLine(`Save success with image: [${args.join(' ')}]`)
    return 0
  })
}

function separatedDestination({ flags, args }: Invocation) {
  const base = flags.string('base')
  const lib = flags.string('lib')
  if (base === '') throw invalid('base image name(-b) must be provided')
  if (base === lib) throw invalid('base and lib images are the same')
  for (const image of [...args, base, lib]) {
    if (/^[0-9a-f]{64}$/.test(image)) {
      throw invalid(`using image ID "${image}" as image name to save separated image is not allowed`)
    }
  }
  const rename = flags.string('rename')
  const directory = resolve(flags.string('dest') || 'Images')
  if (existsSync(directory)) {
    throw new BuilderError('ISB_ALREADY_EXISTS', `dest directory already exist: ${JSON.stringify(directory)}`)
  }
  const value = { base, lib, rename: rename === '' ? '' : resolve(rename), directory }
  return { case: 'separated', value } as const
}

/** Also used by `build -o`: a new file, named with the directory the client sees it in. */
export function fileDestination(output: string) {
  if (output === '') throw invalid('output path(-o) should not be empty')
  if (output === '-') {
    if (terminal.interactive) throw invalid('refusing to write an archive to a terminal; redirect the output')
    return { case: 'stream', value: {} } as const
  }
  if (output.includes(':')) throw invalid(`colon in path "${output}" is not supported`)
  const path = resolve(output)
  if (existsSync(path)) {
    throw new BuilderError(
      'ISB_ALREADY_EXISTS',
      `output file already exist: "${path}", try to remove existing tarball or rename output file`,
    )
  }
  try {
    const { dev, ino } = statSync(dirname(path), { bigint: true })
    return { case: 'file', value: { path, parentDev: dev, parentInode: ino } } as const
  } catch (error) {
    throw fileError(error, dirname(path))
  }
}

function invalid(message: string): BuilderError {
  return new BuilderError('ISB_ARGUMENT_INVALID', message)
}
