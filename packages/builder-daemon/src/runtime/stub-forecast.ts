import { resolve } from 'node:path'
import { type BytePath, bytesOfText } from '@isula-build/shared/oci/byte-path.js'
import { createLayerStack } from '../system/layer-stack.js'
import { kernelDirectories, type MountPoint } from './mount-points.js'

/** What has to be made below a root file system before it can be used, found out without mounting it. */
export interface StubForecast {
  readonly missing: readonly MountPoint[]
  /** The layer whose parents of the missing entries are the ones that are seen; undefined when there are none. */
  readonly seenIn: string | undefined
}

const systemParent = 'etc'

/**
 * Looks where overlayfs looks: a mount made only to look at costs more than all else. undefined when the answer is not
 * simple, because a link is on the way. `lowers` bottom first, with nothing in the upper directory; `systemFiles` are
 * names in /etc.
 */
export function forecastStubs(
  lowers: readonly string[],
  dataRoot: string,
  systemFiles: readonly string[],
): StubForecast | undefined {
  const stack = createLayerStack(lowers.map((lower) => bytesOfText(resolve(dataRoot, lower))).reverse())
  const missing: MountPoint[] = []
  for (const name of kernelDirectories) {
    const found = stack.look(name)
    if (found === undefined) return undefined
    if (found.stat?.type !== 'directory') missing.push(point(name, 'directory'))
  }
  const parent = stack.look(systemParent)
  if (parent === undefined || (parent.stat !== undefined && parent.stat.type !== 'directory'))
    return undefined
  for (const name of systemFiles) {
    const path = `${systemParent}/${name}`
    const found = stack.look(path)
    if (found === undefined || found.stat?.type === 'symlink') return undefined
    if (found.stat === undefined || found.stat.type === 'directory') missing.push(point(path, 'file'))
  }
  return { missing, seenIn: parent.layers[0] }
}

function point(path: string, kind: MountPoint['kind']): MountPoint {
  return { path: path as BytePath, kind, missing: true }
}
