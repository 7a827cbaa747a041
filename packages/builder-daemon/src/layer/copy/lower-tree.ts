import { closeSync } from 'node:fs'
import { type MergedLayers, openMerged } from '../../system/detached-overlay.js'
import { readDirectory } from '../../system/file-stat.js'
import { createLayerStack } from '../../system/layer-stack.js'
import { AT_FDCWD } from '../../system/libc.js'
import { lastOf, openCanonical } from '../../system/rooted.js'
import { O_RDONLY, readlinkat } from '../../system/syscalls.js'
import type { LowerTree } from './destination.js'
import { createDirectReader, entryOf, readXattrs } from './direct-reader.js'
import type { SourceReader } from './source-reader.js'

/**
 * The layers (absolute directories, top first) as one tree. Single entries are looked for in the layers; who lists or
 * opens something, or asks for what only the kernel can tell, has them mounted.
 */
export function openLowerTree(lowers: readonly string[]): LowerTree & Disposable {
  const stack = createLayerStack(lowers)
  let mounted: { readonly merged: MergedLayers; readonly reader: SourceReader } | undefined

  function mount(): { readonly merged: MergedLayers; readonly reader: SourceReader } {
    if (mounted === undefined) {
      const merged = openMerged(lowers)
      mounted = { merged, reader: createDirectReader(merged.fd) }
    }
    return mounted
  }

  function stat(path: string) {
    const found = stack.look(path)
    if (found === undefined) return mount().reader.stat(path)
    const { stat, place } = found
    if (stat === undefined) return undefined
    return entryOf(path === '' ? '' : lastOf(path), stat, {
      link: stat.type === 'symlink' ? readlinkat(AT_FDCWD, place) : '',
      xattrs: readXattrs(place),
    })
  }

  function names(path: string): ReadonlySet<string> {
    const fd = openCanonical(mount().merged.fd, path, O_RDONLY)
    try {
      return new Set(readDirectory(fd))
    } finally {
      closeSync(fd)
    }
  }

  function close(): void {
    mounted?.reader.close()
    mounted?.merged.close()
    mounted = undefined
  }

  return {
    ...{ stat, names, close },
    list: (path) => mount().reader.list(path),
    open: (path) => mount().reader.open(path),
    scan: (request, check, recorder) => mount().reader.scan(request, check, recorder),
    prefetch: () => undefined,
    [Symbol.dispose]: close,
  }
}
