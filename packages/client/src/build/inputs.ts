import { statSync } from 'node:fs'
import { parseIgnoreFile } from '@isula-build/shared/dockerfile/ignore.js'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { warnLine } from '../terminal.js'
import {
  buildError,
  contextDirectory,
  dockerfileLimit,
  findDockerfile,
  findIgnoreFile,
  type NamedFile,
} from './build-inputs.js'
import type { LocalContext } from './follow.js'
import { readStdinContext } from './stdin-context.js'

export interface BuildInputs {
  readonly dockerfile: NamedFile
  /** What this client leaves out of the context; undefined: the daemon looks for it there. */
  readonly ignoreFile: NamedFile | undefined
  readonly context: LocalContext
  readonly dispose: () => Promise<void>
}

/** `path` is a directory, or `-` for a tar or a Dockerfile on standard input, which `stdin` opens; `filename` as for `-f`. */
export async function readInputs(
  filename: string,
  path: string,
  stdin: () => AsyncIterable<Uint8Array>,
): Promise<BuildInputs> {
  if (path === '-') return await stdinInputs(filename, stdin())
  const directory = contextDirectory(path)
  const dockerfile =
    filename === '-'
      ? { name: 'Dockerfile', content: await readDockerfile(stdin()), path: undefined }
      : findDockerfile(filename, directory)
  const ignoreFile = findIgnoreFile(dockerfile.path, directory)
  return {
    dockerfile: { name: dockerfile.name, content: dockerfile.content },
    ignoreFile,
    context: directoryContext(directory, ignoreFile),
    dispose: async () => undefined,
  }
}

async function stdinInputs(filename: string, stdin: AsyncIterable<Uint8Array>): Promise<BuildInputs> {
  if (filename === '-') throw buildError('standard input cannot be both the Dockerfile and the context')
  const given = await readStdinContext(stdin)
  const stream = { source: { case: 'stream', value: {} } } as const
  if (given.kind === 'dockerfile') {
    const dockerfile = { name: 'Dockerfile', content: given.content }
    const context: LocalContext = { source: stream, pack: emptyTar }
    return { dockerfile, ignoreFile: undefined, context, dispose: async () => undefined }
  }
  try {
    for (const name of filename === '' ? ['Dockerfile', 'dockerfile'] : [filename]) {
      const content = await given.dockerfile(name)
      if (content === undefined) continue
      if (content.length === 0) throw buildError(`${name} in the tar on standard input is empty`)
      const context: LocalContext = { source: stream, pack: given.open }
      return { dockerfile: { name, content }, ignoreFile: undefined, context, dispose: given.close }
    }
    const name = filename === '' ? 'Dockerfile' : filename
    throw buildError(`the tar on standard input holds no ${name}`, 'ISB_PATH_NOT_FOUND')
  } catch (error) {
    await given.close()
    throw error
  }
}

async function* emptyTar(): AsyncIterable<Uint8Array> {
  yield Buffer.alloc(1024)
}

async function readDockerfile(stream: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = []
  let size = 0
  for await (const part of stream) {
    size += part.length
    if (size > dockerfileLimit) {
      throw new BuilderError('ISB_LIMIT_EXCEEDED', 'the Dockerfile on standard input is larger than 1 MiB')
    }
    parts.push(part)
  }
  if (size === 0) throw buildError('the Dockerfile on standard input is empty')
  return Buffer.concat(parts)
}

/** A directory as the client sees it; packed here when the daemon sees another one. */
function directoryContext(directory: string, ignoreFile: NamedFile | undefined): LocalContext {
  const { dev, ino } = statSync(directory, { bigint: true })
  const ignore = ignoreFile === undefined ? [] : parseIgnoreFile(ignoreFile.content.toString('utf8'))
  return {
    source: { source: { case: 'directory', value: { path: directory, dev, inode: ino } } },
    async *pack() {
      const { packDirectory } = await import('./tar-pack.js')
      yield* packDirectory(Buffer.from(directory).toString('latin1'), ignore, (name) =>
        warnLine(`${name} is no file, directory or link and is left out`),
      )
    },
  }
}

/** `NAME=DIRECTORY` or `NAME=docker-image://IMAGE`, each name once. */
export function namedContexts(texts: readonly string[]): ReadonlyMap<string, LocalContext> {
  const contexts = new Map<string, LocalContext>()
  for (const text of texts) {
    const equals = text.indexOf('=')
    const name = text.slice(0, Math.max(0, equals)).toLowerCase()
    const value = text.slice(equals + 1)
    if (name === '' || value === '')
      throw buildError(`invalid build context ${JSON.stringify(text)}, expected NAME=VALUE`)
    if (contexts.has(name)) throw buildError(`build context ${JSON.stringify(name)} is given twice`)
    contexts.set(name, namedContext(value))
  }
  return contexts
}

function namedContext(value: string): LocalContext {
  const [, scheme, rest = ''] = /^([a-z-]+):\/\/(.*)$/.exec(value) ?? []
  if (scheme === undefined) {
    const directory = contextDirectory(value)
    return directoryContext(directory, findIgnoreFile(undefined, directory))
  }
  if (!['docker-image', 'container-image', 'docker'].includes(scheme) || rest === '') {
    throw buildError(`build context ${JSON.stringify(value)} is no directory and no docker-image://IMAGE`)
  }
  return { source: { source: { case: 'image', value: rest } }, pack: emptyTar }
}
