import { statSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import type { CacheSource, CacheTarget } from '@isula-build/shared/rpc/build-messages.js'
import { parseCacheFrom, parseCacheTo } from '@isula-build/shared/text/cache-spec.js'
import type { FlagReader } from '../cli/command.js'
import { fileError } from '../file-error.js'
import { buildError } from './build-inputs.js'

/** `--cache-from` and `--cache-to`. Directories are named with the identity that this client sees. */
export function cacheOptions(flags: FlagReader): {
  readonly from: readonly CacheSource[]
  readonly to: readonly CacheTarget[]
} {
  return {
    from: flags.strings('cache-from').map(cacheSource),
    to: flags.strings('cache-to').map(cacheTarget),
  }
}

function cacheSource(text: string): CacheSource {
  const location = parseCacheFrom(text)
  if (location.kind === 'registry') return { location: { case: 'reference', value: location.reference } }
  const path = resolve(location.path)
  const { dev, ino } = directoryStat(path)
  return { location: { case: 'directory', value: { path, dev, inode: ino } } }
}

function cacheTarget(text: string): CacheTarget {
  const { location, mode, compression = '', ignoreError } = parseCacheTo(text)
  const rest = { mode, compression, ignoreError }
  if (location.kind === 'registry') {
    return { location: { case: 'reference', value: location.reference }, ...rest }
  }
  const path = resolve(location.path)
  const { dev, ino } = directoryStat(dirname(path))
  return { location: { case: 'directory', value: { path, parentDev: dev, parentInode: ino } }, ...rest }
}

function directoryStat(path: string): { readonly dev: bigint; readonly ino: bigint } {
  try {
    const stat = statSync(path, { bigint: true })
    if (stat.isDirectory()) return stat
  } catch (error) {
    throw fileError(error, path)
  }
  throw buildError(`${JSON.stringify(path)} is not a directory`)
}
