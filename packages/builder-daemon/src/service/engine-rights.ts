import { realpath, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Caller } from '../ports/caller.js'

const write = 0o2
const search = 0o1

/**
 * Handing an image to an engine makes it do something, so only those who could tell it themselves may: the mode bits
 * of its socket, and of the directories it is in, have to let the caller through. Fails with ISB_PERMISSION_DENIED,
 * ISB_ENGINE_FAILED when there is no socket.
 */
export async function requireEngine(engine: string, socket: string, caller: Caller): Promise<void> {
  if (caller.uid === 0) return
  const path = await realpath(socket).catch((cause: unknown) => {
    throw new BuilderError('ISB_ENGINE_FAILED', `${engine} at ${socket} is not running`, { cause })
  })
  let allowed = await permits(path, write, caller)
  for (let directory = dirname(path); allowed; directory = dirname(directory)) {
    allowed = await permits(directory, search, caller)
    if (directory === '/') break
  }
  if (allowed) return
  throw new BuilderError('ISB_PERMISSION_DENIED', `uid ${caller.uid} may not use ${engine} at ${socket}`, {
    hint: 'Members of the group of its socket may.',
  })
}

/** The first class that the caller is of decides (path_resolution(7)). */
async function permits(path: string, wanted: number, caller: Caller): Promise<boolean> {
  const { uid, gid, mode } = await stat(path)
  const isMember = [caller.gid, ...caller.groups].includes(gid)
  const shift = uid === caller.uid ? 6 : isMember ? 3 : 0
  return ((mode >> shift) & wanted) !== 0
}
