import { closeSync } from 'node:fs'
import { join } from 'node:path'
import { parseIgnoreFile } from '@isula-build/shared/dockerfile/ignore.js'
import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Caller, CallerFiles, ContextHandle, FileIdentity } from '../ports/caller.js'
import type { ContextProvider, ContextTree } from '../ports/contexts.js'
import { readDescriptor } from '../system/pipe-chunks.js'
import { readInRoot } from '../system/rooted.js'

/** Where a context comes from: a directory the caller can read, or one unpacked from his stream. */
export type ContextSource =
  | { readonly kind: 'path'; readonly path: string }
  | { readonly kind: 'unpacked'; readonly open: (signal: AbortSignal) => Promise<ContextHandle> }
  /** The directory at `path` when it is the one its client sees, else what he streams. */
  | {
      readonly kind: 'checked'
      readonly path: string
      readonly expected: FileIdentity
      readonly otherwise: (signal: AbortSignal) => Promise<ContextHandle>
    }

export interface ContextSources {
  readonly caller: Caller
  readonly files: CallerFiles
  /** '' is the build context. */
  readonly sources: ReadonlyMap<string, ContextSource>
  /** Lines that came with the request, which then count instead of any file. */
  readonly ignore: { readonly lines: readonly string[]; readonly file: string } | undefined
  /** Directory where it is remembered what this user's directories held. */
  readonly statTables: string
  /** Path of the Dockerfile below the build context, when it lies there. */
  readonly dockerfile: string | undefined
}

/** Bytes; the original's limit. */
const ignoreFileLimit = 1024 * 1024

/** How opening a directory fails that its client sees and the caller cannot reach here. */
const elsewhere: ReadonlySet<string> = new Set([
  'ISB_PATH_NOT_FOUND',
  'ISB_PERMISSION_DENIED',
  'ISB_ARGUMENT_INVALID',
  'ISB_CONTEXT_INVALID',
])

export function createContextProvider(options: ContextSources): ContextProvider {
  const opened = new Map<string, Promise<{ handle: ContextHandle; tree: ContextTree }>>()

  async function open(
    name: string,
    signal: AbortSignal,
  ): Promise<{ handle: ContextHandle; tree: ContextTree }> {
    const given = options.sources.get(name)
    if (given === undefined) {
      const what = name === '' ? 'a build context' : `the build context "${name}"`
      throw new BuilderError('ISB_CONTEXT_INVALID', `the Dockerfile reads ${what}, but none was given`)
    }
    const { handle, isStreamed } = await openSource(given, signal)
    try {
      const ignored = await ignoreOf(name, handle, signal)
      const tree: ContextTree = {
        root: {
          ...{ access: handle.access, fd: handle.fd, helperOf: handle.helperOf },
          statTables: isStreamed ? undefined : options.statTables,
        },
        ignore: ignored?.lines ?? [],
        ignoreFile: ignored?.file,
        identity: `${handle.identity.dev}:${handle.identity.ino}`,
      }
      return { handle, tree }
    } catch (error) {
      await handle[Symbol.asyncDispose]()
      throw error
    }
  }

  async function openSource(
    source: ContextSource,
    signal: AbortSignal,
  ): Promise<{ readonly handle: ContextHandle; readonly isStreamed: boolean }> {
    const { caller, files } = options
    switch (source.kind) {
      case 'path':
        return { handle: await files.openDirectory(caller, source.path, signal), isStreamed: false }
      case 'unpacked':
        return { handle: await source.open(signal), isStreamed: true }
      case 'checked': {
        const handle = await openExpected(source.path, source.expected, signal)
        if (handle !== undefined) return { handle, isStreamed: false }
        return { handle: await source.otherwise(signal), isStreamed: true }
      }
    }
  }

  /** undefined when what lies there is not what the client sees, for whatever reason. */
  async function openExpected(
    path: string,
    expected: FileIdentity,
    signal: AbortSignal,
  ): Promise<ContextHandle | undefined> {
    let handle: ContextHandle
    try {
      handle = await options.files.openDirectory(options.caller, path, signal)
    } catch (error) {
      if (isBuilderError(error) && elsewhere.has(error.code)) return undefined
      throw error
    }
    const { dev, ino } = handle.identity
    if (dev === expected.dev && ino === expected.ino) return handle
    await handle[Symbol.asyncDispose]()
    return undefined
  }

  /** `<Dockerfile>.dockerignore` when it exists, else `.dockerignore`. */
  async function ignoreOf(
    name: string,
    handle: ContextHandle,
    signal: AbortSignal,
  ): Promise<{ lines: readonly string[]; file: string } | undefined> {
    if (name === '' && options.ignore !== undefined) return options.ignore
    const own = name === '' && options.dockerfile !== undefined ? [`${options.dockerfile}.dockerignore`] : []
    for (const file of [...own, '.dockerignore']) {
      const content =
        handle.access === 'helper'
          ? await readAsCaller(join(handle.path, file), signal)
          : readBelow(handle.fd, file)
      if (content !== undefined) return { lines: parseIgnoreFile(content.toString('utf8')), file }
    }
    return undefined
  }

  async function readAsCaller(path: string, signal: AbortSignal): Promise<Buffer | undefined> {
    let file: { fd: number }
    try {
      file = await options.files.openRead(options.caller, path, signal)
    } catch (error) {
      if (isBuilderError(error, 'ISB_PATH_NOT_FOUND')) return undefined
      throw error
    }
    try {
      const content = await readDescriptor(file.fd, ignoreFileLimit, signal)
      if (content === undefined) throw tooLarge(path)
      return content
    } finally {
      closeSync(file.fd)
    }
  }

  return {
    async get(name, signal) {
      let entry = opened.get(name)
      if (entry === undefined) {
        entry = open(name, signal)
        opened.set(name, entry)
      }
      return (await entry).tree
    },
    async [Symbol.asyncDispose]() {
      for (const entry of await Promise.allSettled(opened.values())) {
        if (entry.status === 'fulfilled') await entry.value.handle[Symbol.asyncDispose]()
      }
    },
  }
}

function readBelow(root: number, file: string): Buffer | undefined {
  try {
    return readInRoot(root, Buffer.from(file, 'utf8').toString('latin1'), ignoreFileLimit)
  } catch (error) {
    const { code } = error as { code?: string }
    if (code === 'EFBIG') throw tooLarge(file)
    if (code === 'ENXIO') throw noFile(file)
    throw error
  }
}

function noFile(path: string): BuilderError {
  return new BuilderError('ISB_CONTEXT_INVALID', `${path} in the build context is not a regular file`, {
    hint: 'Make it a file of patterns, or give it another name.',
  })
}

function tooLarge(path: string): BuilderError {
  return new BuilderError('ISB_LIMIT_EXCEEDED', `${path} is larger than 1 MiB`)
}
