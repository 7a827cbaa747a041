import { rmSync } from 'node:fs'
import { join, relative } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { bytesOfText } from '@isula-build/shared/oci/byte-path.js'
import { mount } from '../system/processes.js'
import { hasErrno } from '../system/system-error.js'

/** Layers of one image; the kernel's own limit is 500, one page of mount options is the tighter one. */
export const maxLayers = 127

/** mount(2) hands one page to the kernel, its last byte a NUL. */
const optionPage = 4095

export interface Overlay {
  /** Bottom first; relative paths are relative to the data root, which is the current directory. */
  readonly lowers: readonly string[]
  /** Absolute; undefined = nothing can be written. */
  readonly writable: { readonly upper: string; readonly work: string } | undefined
}

/** Backslash, comma and colon separate options and layers (kernel overlayfs.rst). */
function escaped(path: string): string {
  return bytesOfText(path).replace(/[\\,:]/g, '\\$&')
}

/** The shorter of the absolute and the relative path, since all paths share one page. */
function shortest(path: string, dataRoot: string): string {
  const fromRoot = relative(dataRoot, path)
  return fromRoot !== '' && !fromRoot.startsWith('..') && fromRoot.length < path.length ? fromRoot : path
}

/** Fails with ISB_LIMIT_EXCEEDED for more layers than can be mounted. */
export function overlayOptions(overlay: Overlay, dataRoot: string): string {
  // A layer that occurs twice counts where it is on top; the kernel refuses it twice.
  const topFirst = [...new Set([...overlay.lowers].reverse())]
  const options = [`lowerdir=${topFirst.map((lower) => escaped(shortest(lower, dataRoot))).join(':')}`]
  if (overlay.writable !== undefined) {
    options.push(`upperdir=${escaped(shortest(overlay.writable.upper, dataRoot))}`)
    options.push(`workdir=${escaped(shortest(overlay.writable.work, dataRoot))}`)
  }
  options.push('index=off', 'redirect_dir=off', 'metacopy=off')
  const text = options.join(',')
  const volatileLength = ',volatile'.length
  if (text.length + volatileLength > optionPage) throw tooManyLayers(topFirst.length)
  return text
}

export function checkLayerCount(count: number): void {
  if (count > maxLayers) throw tooManyLayers(count)
}

function tooManyLayers(count: number): BuilderError {
  return new BuilderError(
    'ISB_LIMIT_EXCEEDED',
    `${count} layers are too many for one file system, at most ${maxLayers} can be mounted`,
    { hint: 'Combine RUN, COPY and ADD instructions, or build with `--layers=stage`.' },
  )
}

let hasVolatile = true

/** Mounts without ever flushing at unmount; what must last is flushed by the store. */
export function mountOverlay(target: string, overlay: Overlay, dataRoot: string, flags: number): void {
  const options = overlayOptions(overlay, dataRoot)
  if (overlay.writable !== undefined && hasVolatile) {
    try {
      mount('overlay', bytesOfText(target), 'overlay', flags, `${options},volatile`)
      return
    } catch (error) {
      // Kernels before 5.10 do not know the option.
      if (!hasErrno(error, 'EINVAL')) throw error
    }
    mount('overlay', bytesOfText(target), 'overlay', flags, options)
    hasVolatile = false
    return
  }
  mount('overlay', bytesOfText(target), 'overlay', flags, options)
}

/** Once unmounted: a volatile mount leaves a mark that keeps the work directory from being used again. */
export function clearWork(work: string): void {
  rmSync(join(work, 'work'), { recursive: true, force: true })
}
