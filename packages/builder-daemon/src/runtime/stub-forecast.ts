import { resolve } from 'node:path'
import { type BytePath, bytesOfText } from '@isula-build/shared/oci/byte-path.js'
import { lgetxattr } from '../system/extended-attributes.js'
import { isWhiteoutDevice, lstatIfExists } from '../system/file-stat.js'
import { AT_FDCWD } from '../system/libc.js'
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
  const layers = lowers.map((lower) => bytesOfText(resolve(dataRoot, lower))).reverse()
  const missing: MountPoint[] = []
  for (const name of kernelDirectories) {
    if (look(layers, name).type !== 'directory') missing.push(point(name, 'directory'))
  }
  const parent = look(layers, systemParent)
  if (parent.type === 'link' || parent.type === 'other' || parent.isStrange) return undefined
  for (const name of systemFiles) {
    const path = `${systemParent}/${name}`
    const found = look(parent.layers, path)
    if (found.type === 'link' || found.isStrange) return undefined
    if (found.type !== 'other') missing.push(point(path, 'file'))
  }
  return { missing, seenIn: parent.layers[0] }
}

function point(path: string, kind: MountPoint['kind']): MountPoint {
  return { path: path as BytePath, kind, missing: true }
}

interface Look {
  readonly type: 'missing' | 'directory' | 'link' | 'other'
  /** Those whose directories are merged, top first. */
  readonly layers: readonly string[]
  /** Marked in a way that only the kernel understands. */
  readonly isStrange: boolean
}

/** `path` in layers that all have its parent, top first (kernel overlayfs.rst, "whiteouts and opaque directories"). */
function look(layers: readonly string[], path: string): Look {
  const merged: string[] = []
  let isStrange = false
  for (const layer of layers) {
    const place = `${layer}/${path}`
    const stat = lstatIfExists(AT_FDCWD, place)
    if (stat === undefined) continue
    if (stat.type !== 'directory') {
      if (merged.length > 0 || isWhiteoutDevice(stat)) break
      return { type: stat.type === 'symlink' ? 'link' : 'other', layers: [], isStrange }
    }
    merged.push(layer)
    const opaque = lgetxattr(place, 'trusted.overlay.opaque')?.toString()
    if (opaque === 'y') break
    if (opaque !== undefined) isStrange = true
  }
  return { type: merged.length > 0 ? 'directory' : 'missing', layers: merged, isStrange }
}
