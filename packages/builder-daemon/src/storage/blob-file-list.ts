import { lstat, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { failureCode } from './failure.js'

/** `<hex>` is whole, `<hex>.part` is not yet; `<random>.new` has no digest yet. */
const fileName = /^(?:([0-9a-f]{64})(?:\.part)?|[0-9a-f]{32}\.new)$/

export interface StoredBlobFile {
  readonly path: string
  /** Uid, in digits. */
  readonly user: string
  /** undefined for a file without a digest. */
  readonly key: string | undefined
  readonly size: number
  /** Milliseconds since the epoch. */
  readonly usedAt: number
}

/** Files that these names are made for; anything else is somebody else's and stays. */
export async function listBlobFiles(root: string): Promise<StoredBlobFile[]> {
  const files: StoredBlobFile[] = []
  for (const user of await readdir(root, { withFileTypes: true })) {
    if (!user.isDirectory() || !/^[0-9]+$/.test(user.name)) continue
    for (const name of await readdir(join(root, user.name))) {
      const match = fileName.exec(name)
      if (match === null) continue
      const path = join(root, user.name, name)
      const stat = await lstat(path).catch((error) => {
        if (failureCode(error) === 'ENOENT') return undefined
        throw error
      })
      if (stat?.isFile() !== true) continue
      const key = match[1] === undefined ? undefined : `${user.name}/${match[1]}`
      files.push({ path, user: user.name, key, size: stat.size, usedAt: stat.mtimeMs })
    }
  }
  return files
}
