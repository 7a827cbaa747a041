import { readdirSync } from 'node:fs'
import { resolve } from 'node:path'
import { bytesOfText } from '@isula-build/shared/oci/byte-path.js'
import { statPath } from '../system/file-stat.js'
import { AT_FDCWD } from '../system/libc.js'
import { fchmodat, fchownat } from '../system/syscalls.js'

/**
 * The root directory of an overlay looks like the root of its upper directory. A fresh one gets the
 * mode and owner of the layers' own root, so that users other than root can pass it and its look does
 * not change with every RUN. `lowers` bottom first.
 */
export function copyRootAttributes(lowers: readonly string[], upper: string, dataRoot: string): void {
  if (readdirSync(upper).length > 0) return
  const top = lowers.at(-1)
  const bytes = bytesOfText(upper)
  if (top === undefined) {
    fchmodat(AT_FDCWD, bytes, 0o755)
    return
  }
  const stat = statPath(bytesOfText(resolve(dataRoot, top)))
  fchownat(AT_FDCWD, bytes, stat.uid, stat.gid)
  fchmodat(AT_FDCWD, bytes, stat.mode)
}
