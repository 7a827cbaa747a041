import type { Decoded } from '@isula-build/shared/rpc/codec.js'
import type * as wire from '@isula-build/shared/rpc/control.js'
import type { LoadRequest, RemoveRequest, SaveRequest } from './handlers.js'
import { checkChoice, checkPath, invalid, orUndefined } from './request-checks.js'

// The original's requests in our terms.

export function controlRemove(request: Decoded<typeof wire.RemoveRequest>): RemoveRequest {
  if (request.all) return { kind: 'all' }
  if (request.prune) return { kind: 'unnamed' }
  if (request.imageID.length === 0) throw invalid('imageID/name must be specified')
  return { kind: 'named', references: request.imageID }
}

export function controlLoad(request: Decoded<typeof wire.LoadRequest>): LoadRequest {
  const { sep } = request
  if (sep?.enabled !== true) {
    return { kind: 'archive', source: { kind: 'file', path: checkPath(request.path, 'tarball') } }
  }
  return {
    kind: 'separated',
    app: sep.app,
    directory: checkPath(sep.dir, 'tarball directory'),
    base: sep.base === '' ? undefined : checkPath(sep.base, 'base tarball'),
    lib: sep.lib === '' ? undefined : checkPath(sep.lib, 'lib tarball'),
    skipCheck: sep.skipCheck,
  }
}

export function controlSave(request: Decoded<typeof wire.SaveRequest>): SaveRequest {
  const { images, path, sep } = request
  const format = checkChoice(request.format, 'image format', ['docker', 'oci'])
  if (images.length === 0) throw invalid('no image to save')
  if (sep?.enabled !== true) {
    return {
      images,
      format,
      destination: { kind: 'file', path: checkPath(path, 'output'), parent: undefined },
    }
  }
  const destination = {
    kind: 'separated',
    base: sep.base,
    lib: orUndefined(sep.lib),
    rename: sep.rename === '' ? undefined : checkPath(sep.rename, 'rename file'),
    directory: checkPath(sep.dest, 'output directory'),
  } as const
  return { images, format, destination }
}
