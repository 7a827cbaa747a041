import { spawn } from 'node:child_process'
import { createReadStream } from 'node:fs'
import { type FileHandle, mkdtemp, open, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { createGunzip } from 'node:zlib'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { endTurn } from '../turn.js'
import { dockerfileLimit } from './build-inputs.js'
import { findMember, isTarHeader, TarError, tarBlock } from './tar-member.js'

/** What came on standard input instead of a context directory. */
export type StdinContext =
  /** A tar, perhaps compressed, kept in a file that has no name any more. */
  | {
      readonly kind: 'tar'
      readonly open: () => AsyncIterable<Uint8Array>
      /** The member of that name. */
      readonly dockerfile: (name: string) => Promise<Buffer | undefined>
      readonly close: () => Promise<void>
    }
  /** A Dockerfile without a context. */
  | { readonly kind: 'dockerfile'; readonly content: Buffer }

/** Reads standard input to its end. */
export async function readStdinContext(input: AsyncIterable<Uint8Array>): Promise<StdinContext> {
  const file = await unnamedFile()
  try {
    let size = 0
    for await (const chunk of input) {
      size += chunk.length
      await file.writeFile(chunk)
    }
    if (size === 0) throw invalid('standard input is empty, expected a tar or a Dockerfile')
    const head = Buffer.alloc(tarBlock)
    await file.read(head, 0, tarBlock, 0)
    const program = compression(head)
    if (program === undefined && !isTarHeader(head)) {
      if (size > dockerfileLimit) {
        throw new BuilderError('ISB_LIMIT_EXCEEDED', 'the Dockerfile is larger than 1 MiB')
      }
      const content = Buffer.alloc(size)
      await file.read(content, 0, size, 0)
      await file.close()
      return { kind: 'dockerfile', content }
    }
    const stream = (): Readable => {
      const options = { fd: file.fd, start: 0, autoClose: false, highWaterMark: 1024 * 1024 }
      return createReadStream('', options)
    }
    return {
      kind: 'tar',
      open: stream,
      dockerfile: (name) => memberOf(decompressed(stream(), program), name),
      close: () => file.close(),
    }
  } catch (error) {
    await file.close()
    throw error
  }
}

/** Nothing is left of it however this process ends. */
async function unnamedFile(): Promise<FileHandle> {
  const directory = await mkdtemp(join(tmpdir(), 'isula-build-context-'))
  try {
    return await open(join(directory, 'context'), 'wx+', 0o600)
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

type Compression = 'gzip' | 'bzip2' | 'xz' | 'zstd'

function compression(head: Buffer): Compression | undefined {
  const magics: readonly (readonly [string, Compression])[] = [
    ['1f8b', 'gzip'],
    ['28b52ffd', 'zstd'],
    ['fd377a585a00', 'xz'],
    ['425a68', 'bzip2'],
  ]
  const hex = head.toString('hex')
  return magics.find(([magic]) => hex.startsWith(magic))?.[1]
}

function decompressed(stream: Readable, program: Compression | undefined): AsyncIterable<Uint8Array> {
  if (program === undefined) return stream
  if (program === 'gzip') return stream.pipe(createGunzip())
  endTurn()
  const child = spawn(program, ['-dc'], { stdio: ['pipe', 'pipe', 'ignore'] })
  // Its end before the input's is no error: the member may have been found.
  child.stdin.on('error', () => undefined)
  stream.pipe(child.stdin)
  const failed = new Promise<never>((_resolve, reject) => {
    child.once('error', (error) => reject(invalid(`cannot run ${program}: ${error.message}`)))
  })
  failed.catch(() => undefined)
  return (async function* () {
    try {
      const iterator = child.stdout[Symbol.asyncIterator]()
      for (;;) {
        const next = await Promise.race([iterator.next(), failed])
        if (next.done) return
        yield next.value as Buffer
      }
    } finally {
      child.kill('SIGKILL')
    }
  })()
}

async function memberOf(tar: AsyncIterable<Uint8Array>, name: string): Promise<Buffer | undefined> {
  try {
    return await findMember(tar, name, dockerfileLimit)
  } catch (error) {
    const { code = '', message } = error as NodeJS.ErrnoException
    if (error instanceof TarError || code.startsWith('Z_')) {
      throw invalid(`the tar on standard input is damaged: ${message}`)
    }
    throw error
  }
}

function invalid(message: string): BuilderError {
  return new BuilderError('ISB_CONTEXT_INVALID', message)
}
