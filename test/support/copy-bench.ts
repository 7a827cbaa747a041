import {
  chmodSync,
  closeSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, vi } from 'vitest'
import { copyJob, digestSourcesJob } from '../../packages/builder-daemon/src/layer/copy/copy.js'
import { sealJob } from '../../packages/builder-daemon/src/layer/seal.js'
import type {
  CopyParams,
  CopyResult,
  ResolvedCopyInput,
} from '../../packages/builder-daemon/src/ports/layer-worker.js'
import { bytesOfText, rootedPath } from '../../packages/shared/src/oci/byte-path.js'

export interface Copy extends Partial<Omit<CopyParams, 'inputs' | 'upper'>> {
  readonly from?: readonly string[]
  readonly unpack?: boolean
  readonly ignore?: readonly string[]
  readonly inputs?: readonly ResolvedCopyInput[]
}

export const emptyLayer = 'sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef'

/**
 * A context, layers below and COPY instructions run on them, in a new directory of `place`; everything is gone after each
 * test.
 */
export function useCopyBench(place: string = tmpdir()) {
  let base: string
  let context: string
  let contextFd: number
  let layers: string[]

  beforeEach(() => {
    base = mkdtempSync(join(place, 'copy-'))
    context = join(base, 'context')
    mkdirSync(context)
    contextFd = openSync(context, 'r')
    layers = []
  })
  afterEach(() => {
    closeSync(contextFd)
    rmSync(base, { recursive: true, force: true })
  })

  function file(path: string, content = path, mode = 0o644): void {
    const full = join(context, path)
    mkdirSync(join(full, '..'), { recursive: true })
    writeFileSync(full, content)
    chmodSync(full, mode)
    utimesSync(full, 1000, 1000)
  }

  function layer(fill: (directory: string) => void): void {
    const directory = join(base, `lower-${layers.length}`)
    mkdirSync(directory)
    fill(directory)
    layers.unshift(directory)
  }

  function tree(pattern: string, more: Partial<Extract<ResolvedCopyInput, { kind: 'tree' }>> = {}) {
    return {
      kind: 'tree',
      root: { access: 'direct', fd: contextFd },
      pattern: bytesOfText(pattern),
      unpack: false,
      ignore: [],
      ignoreFile: '.dockerignore',
      isContext: true,
      ...more,
    } as const
  }

  function paramsOf(sources: readonly string[], destination: string, copy: Copy): CopyParams {
    const upper = join(mkdtempSync(join(base, 'staging-')), 'upper')
    mkdirSync(upper)
    chmodSync(upper, 0o755)
    const from = copy.from === undefined ? {} : { root: { access: 'layers' as const, lowers: copy.from } }
    const input = {
      unpack: copy.unpack ?? false,
      ignore: copy.ignore ?? [],
      isContext: copy.from === undefined,
    }
    return {
      upper,
      lowers: copy.lowers ?? layers,
      instruction: 'COPY',
      inputs: copy.inputs ?? sources.map((source) => tree(source, { ...from, ...input })),
      destination: rootedPath(bytesOfText(destination)),
      intoDirectory: destination.endsWith('/'),
      chown: copy.chown,
      chmod: copy.chmod,
      link: copy.link ?? false,
      parents: copy.parents ?? false,
      excludes: copy.excludes ?? [],
      fixedTime: copy.fixedTime,
    }
  }

  interface Done extends CopyResult {
    readonly upper: string
  }

  /** Whatever is copied: the layer's hash is that of sealing it, the content key that of reading the sources. */
  function copy(sources: string | readonly string[], destination: string, options: Copy = {}): Done {
    const params = paramsOf([sources].flat(), destination, options)
    const { contentKey } = digestSourcesJob(params)
    const remembering = remembered(params)
    // Read, then perhaps remembered.
    const { contentKey: read, seen } = digestSourcesJob(remembering)
    for (const key of [read, digestSourcesJob(remembering).contentKey]) expect(key).toBe(contentKey)
    const result = copyJob(remembering)
    if (seen !== undefined) {
      const { upper } = paramsOf([], destination, options)
      expect(copyJob({ ...remembering, upper, seen })).toEqual(result)
    }
    expect(result.contentKey).toBe(contentKey)
    const { fixedTime } = params
    expect(sealJob({ upper: params.upper, fixedTime, identify: true })).toEqual({
      diffId: result.diffId,
      tarSize: result.tarSize,
      entries: result.entries,
      contentId: result.contentId,
    })
    const beside = readdirSync(join(params.upper, '..')).filter((name) => name !== 'marks')
    expect(beside).toEqual(['sources', 'upper'])
    expect(digestSourcesJob(remembering).contentKey).toBe(contentKey)
    return { ...result, upper: params.upper }
  }

  function remembered(params: CopyParams): CopyParams {
    const inputs = params.inputs.map((input) =>
      input.kind === 'tree' && input.isContext
        ? { ...input, root: { ...input.root, statTables: join(base, 'stat', 'user') } }
        : input,
    )
    return { ...params, inputs }
  }

  function failure(sources: string | readonly string[], destination: string, options: Copy = {}) {
    const params = paramsOf([sources].flat(), destination, options)
    try {
      copyJob(params)
    } catch (error) {
      expect(readdirSync(join(params.upper, '..'))).toEqual(['upper'])
      return error
    }
    throw new Error('the copy succeeded')
  }

  function list(directory: string, prefix = ''): string[] {
    return readdirSync(directory, { withFileTypes: true })
      .sort((a, b) => (a.name < b.name ? -1 : 1))
      .flatMap((entry) => {
        const path = prefix + entry.name
        if (!entry.isDirectory()) return [path]
        return [`${path}/`, ...list(join(directory, entry.name), `${path}/`)]
      })
  }

  const modeOf = (path: string) => (lstatSync(path).mode & 0o7777).toString(8)
  const ownerOf = (path: string) => `${lstatSync(path).uid}:${lstatSync(path).gid}`

  return {
    get base() {
      return base
    },
    get context() {
      return context
    },
    get layers() {
      return layers
    },
    file,
    layer,
    paramsOf,
    remembered,
    copy,
    failure,
    list,
    modeOf,
    ownerOf,
  }
}

/** What a test writes is ten seconds old to it: stat may tell of it. */
export function useLaterClock(): void {
  beforeEach(() => {
    const now = Date.now.bind(Date)
    vi.spyOn(Date, 'now').mockImplementation(() => now() + 10_000)
  })
  afterEach(() => void vi.restoreAllMocks())
}
