import { lgetxattr } from './extended-attributes.js'
import { type FileStat, isWhiteoutDevice, lstatIfExists } from './file-stat.js'
import { AT_FDCWD } from './libc.js'

/**
 * What overlayfs shows of stacked layers, found out by looking into them: a mount made only to look at costs more than
 * all else, and its end makes a thread wait until no processor knows of it any more. The layers change no more.
 */
export interface LayerStack {
  /** Follows no link; below a link there is nothing. undefined: only the kernel can tell. */
  look(path: string): StackedEntry | undefined
}

export interface StackedEntry {
  /** As `lstat` sees the topmost; undefined: there is none. */
  readonly stat: FileStat | undefined
  /** Its path. */
  readonly place: string
  /** The layers whose directories are merged here, top first; none for what is no directory. */
  readonly layers: readonly string[]
}

const opaqueAttribute = 'trusted.overlay.opaque'
/** Bytes; a system call takes no longer path. */
const longestPath = 4000

/** `layers` are absolute directories, bytes, top first; one that occurs twice counts where it is on top. */
export function createLayerStack(layers: readonly string[]): LayerStack {
  const all = [...new Set(layers)]
  const root: StackedEntry = { stat: lstatIfExists(AT_FDCWD, all[0] ?? ''), place: all[0] ?? '', layers: all }
  // Without one of them there is nothing to see: a mount tells what is wrong. A layer's directory may be named by a link.
  const isWhole = all.every((layer) => lstatIfExists(AT_FDCWD, `${layer}/`) !== undefined)
  const directories = new Map<string, StackedEntry | undefined>([['', isWhole ? root : undefined]])

  function look(path: string): StackedEntry | undefined {
    if (directories.has(path)) return directories.get(path)
    const slash = path.lastIndexOf('/')
    const parent = look(slash < 0 ? '' : path.slice(0, slash))
    if (parent === undefined) return undefined
    const found = lookIn(parent.layers, path)
    if (found === undefined || found.layers.length > 0) directories.set(path, found)
    return found
  }

  return { look }
}

const nothing: StackedEntry = { stat: undefined, place: '', layers: [] }

/** In layers that all have its parent (kernel overlayfs.rst, "whiteouts and opaque directories"). */
function lookIn(layers: readonly string[], path: string): StackedEntry | undefined {
  const merged: string[] = []
  let top: Pick<StackedEntry, 'stat' | 'place'> | undefined
  for (const layer of layers) {
    const place = `${layer}/${path}`
    if (place.length > longestPath) return undefined
    const stat = lstatIfExists(AT_FDCWD, place)
    if (stat === undefined) continue
    if (stat.type !== 'directory') {
      if (top !== undefined || isWhiteoutDevice(stat)) break
      return { stat, place, layers: [] }
    }
    top ??= { stat, place }
    merged.push(layer)
    const opaque = lgetxattr(place, opaqueAttribute)?.toString()
    if (opaque === 'y') break
    // Deletions in a form of their own are in it.
    if (opaque !== undefined) return undefined
  }
  return top === undefined ? nothing : { ...top, layers: merged }
}
