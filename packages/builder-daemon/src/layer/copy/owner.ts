import type { CopyParams } from '../../ports/layer-worker.js'
import { resolveUserJob } from '../users.js'
import type { Owner } from './destination.js'

/**
 * `--chown`: names are those of the image; a number without a group is the group's too, as for docker.
 * undefined when the owner is not to be changed. Fails as `resolveUser` does.
 */
export function ownerOf({ chown, lowers }: CopyParams): Owner | undefined {
  if (chown === undefined || chown === '') return undefined
  if (/^\d+$/.test(chown) && Number(chown) <= 0x7fffffff) return { uid: Number(chown), gid: Number(chown) }
  const { uid, gid } = resolveUserJob({ lowers, user: chown })
  return { uid, gid }
}
