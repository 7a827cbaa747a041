import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import { joinPath } from './source-reader.js'

/** What a resolver must know of one path: nothing there, a link, or anything else. */
export type Look = (path: string) => { readonly type: string; readonly link: string } | undefined

const maximumLinks = 255

/**
 * Follows symbolic links inside a root, the last component included when `followLast`; `..` never
 * climbs above the root. Components that do not exist are taken as they stand, so the result may name
 * something still to be made. Fails with ISB_COPY_FAILED on too many links.
 */
export function resolvePath(path: string, look: Look, followLast: boolean): string {
  const pending = path.split('/').reverse()
  const resolved: string[] = []
  let links = 0
  while (pending.length > 0) {
    const part = pending.pop()
    if (part === undefined || part === '' || part === '.') continue
    if (part === '..') {
      resolved.pop()
      continue
    }
    const here = joinPath(resolved.join('/'), part)
    const entry = followLast || pending.some(isReal) ? look(here) : undefined
    if (entry?.type !== 'symlink') {
      resolved.push(part)
      continue
    }
    links += 1
    if (links > maximumLinks) {
      throw new BuilderError('ISB_COPY_FAILED', `too many symbolic links in /${textOfBytes(path)}`)
    }
    if (entry.link.startsWith('/')) resolved.length = 0
    pending.push(...entry.link.split('/').reverse())
  }
  return resolved.join('/')
}

function isReal(part: string): boolean {
  return part !== '' && part !== '.'
}
