import fs from 'node:fs'
import { basename, dirname } from 'node:path'
import { promisify } from 'node:util'
import type { ContextHandle, FileIdentity, OpenedFile } from '../ports/caller.js'
import { createFileSystemFinder } from '../system/file-system-kind.js'
import { O_PATH } from '../system/syscalls.js'
import { codeOf, RefusalError, refusal } from './refusal.js'

const open = promisify(fs.open)
const close = promisify(fs.close)
const fstat = promisify(fs.fstat)
const lstat = promisify(fs.lstat)
const unlink = promisify(fs.unlink)
const mkdir = promisify(fs.mkdir)
const fchmod = promisify(fs.fchmod)
const fsync = promisify(fs.fsync)
const rename = promisify(fs.rename)
const writeFile = promisify(fs.writeFile)

const { O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY } =
  fs.constants

/** Group and others never may write, as under umask 022. */
export const umask = 0o022

/** What a root caller asks for is opened by the daemon itself, off the main thread. */
export async function openReadDirectly(path: string): Promise<OpenedFile> {
  return await answering(path, async () => {
    const place = await openPlace(path)
    try {
      return await opened(await open(`/proc/self/fd/${place}`, O_RDONLY | O_NONBLOCK))
    } finally {
      await close(place)
    }
  })
}

export async function createDirectly(
  path: string,
  mode: number,
  parent: FileIdentity | undefined,
): Promise<OpenedFile> {
  return await answering(path, async () => {
    const directory = await open(dirname(path), O_PATH | O_DIRECTORY)
    try {
      if (parent !== undefined) {
        const { dev, ino } = await fstat(directory, { bigint: true })
        if (dev !== parent.dev || ino !== parent.ino) throw new RefusalError('OTHER_DIRECTORY')
      }
      const place = `/proc/self/fd/${directory}/${basename(path)}`
      const fd = await open(place, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600)
      await fchmod(fd, mode & ~umask)
      return await opened(fd)
    } finally {
      await close(directory)
    }
  })
}

export async function replaceDirectly(path: string, content: Uint8Array, mode: number): Promise<void> {
  await answering(path, async () => {
    const fd = await openForReplacement(path, mode)
    try {
      await writeFile(fd, content)
    } finally {
      await close(fd)
    }
  })
}

export async function exchangeDirectly(path: string, content: Uint8Array, mode: number): Promise<void> {
  await answering(path, async () => {
    const directory = await open(dirname(path), O_PATH | O_DIRECTORY)
    const place = `/proc/self/fd/${directory}/${basename(path)}`
    const beside = `/proc/self/fd/${directory}/.${basename(path)}.new`
    try {
      if (createFileSystemFinder()(directory) === 'kernel') throw new RefusalError('KERNEL_FILE')
      const there = await lstat(place).catch(unlessMissing)
      if (there?.isFile() === false) throw new RefusalError('NOT_FILE')
      await unlink(beside).catch(unlessMissing)
      const fd = await open(beside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600)
      try {
        await fchmod(fd, mode & ~umask)
        await writeFile(fd, content)
        await fsync(fd)
        await rename(beside, place)
      } catch (error) {
        await unlink(beside)
        throw error
      } finally {
        await close(fd)
      }
    } finally {
      await close(directory)
    }
  })
}

function unlessMissing(error: unknown): undefined {
  if (codeOf(error) !== 'ENOENT') throw error
}

async function openForReplacement(path: string, mode: number): Promise<number> {
  try {
    const place = await openPlace(path)
    try {
      return await open(`/proc/self/fd/${place}`, O_WRONLY | O_TRUNC)
    } finally {
      await close(place)
    }
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw error
    return await open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode & ~umask)
  }
}

export async function removeDirectly(path: string, file: FileIdentity): Promise<void> {
  await answering(path, async () => {
    const { dev, ino } = await lstat(path, { bigint: true })
    if (dev !== file.dev || ino !== file.ino) throw new RefusalError('REPLACED')
    await unlink(path)
  })
}

export async function createDirectoryDirectly(path: string, mode: number): Promise<void> {
  await answering(path, () => mkdir(path, mode & ~umask))
}

export async function openDirectoryDirectly(path: string): Promise<ContextHandle> {
  return await answering(path, async () => {
    const fd = await open(path, O_RDONLY | O_DIRECTORY)
    if (createFileSystemFinder()(fd) === 'kernel') {
      await close(fd)
      throw new RefusalError('KERNEL_FILE')
    }
    const { dev, ino } = await fstat(fd, { bigint: true })
    return contextHandle({ access: 'direct', fd, path, identity: { dev, ino }, helperOf: undefined })
  })
}

export function contextHandle(handle: Omit<ContextHandle, keyof AsyncDisposable>): ContextHandle {
  const { fd } = handle
  let isOpen = true
  return {
    ...handle,
    async [Symbol.asyncDispose]() {
      if (isOpen) await close(fd)
      isOpen = false
    },
  }
}

/** A regular file, looked at before it is opened: opening a device acts, opening a FIFO waits. */
async function openPlace(path: string): Promise<number> {
  const place = await open(path, O_PATH)
  try {
    if (!(await fstat(place)).isFile()) throw new RefusalError('NOT_FILE')
    if (createFileSystemFinder()(place) === 'kernel') throw new RefusalError('KERNEL_FILE')
    return place
  } catch (error) {
    await close(place)
    throw error
  }
}

async function opened(fd: number): Promise<OpenedFile> {
  const { size, dev, ino } = await fstat(fd, { bigint: true })
  return { fd, size: Number(size), dev, ino }
}

async function answering<T>(path: string, operation: () => Promise<T>): Promise<T> {
  try {
    return await operation()
  } catch (error) {
    throw refusal(codeOf(error), path, error)
  }
}
