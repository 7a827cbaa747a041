import type { CopyParams, DigestedSources } from '../../ports/layer-worker.js'
import { type JobControl, uncontrolled } from '../job-control.js'
import { contentDigestOf } from '../pipe/content-digest.js'
import { createContentKey, namedRecord, recordOf } from './content-log.js'
import { changed, openLocalFile } from './direct-reader.js'
import { createSeenRecorder, isStale, matchName, type SeenRecorder } from './seen-sources.js'
import { openSourceMemory, settling } from './source-memory.js'
import { joinPath, type SourceEntry, type SourceFile } from './source-reader.js'
import { type SourceItem, walkSource } from './source-walk.js'
import { type MatchedSource, openSources } from './sources.js'
import { transfer } from './transfer.js'

interface Digested {
  readonly size: number
  readonly digest: Buffer | undefined
}

/** The content of what was listed. */
interface Looked extends Digested {
  /** It was of that very file, as it was listed. */
  readonly isSame: boolean
}

const nothing: Looked = { size: 0, digest: undefined, isSame: true }

/**
 * What `copyJob` gives as `contentKey`, from the sources alone: the layers below are not looked at. Of a context
 * that did not change since it was read last, this is one walk without a file being opened.
 */
export function digestSourcesJob(params: CopyParams, control: JobControl = uncontrolled): DigestedSources {
  const recorder = canBeSeen(params) ? createSeenRecorder() : undefined
  try {
    return digestOnce(params, control, recorder)
  } catch (error) {
    // All was listed at once, perhaps long before it was opened; without, a file has a moment to go in, not minutes.
    if (recorder === undefined || !isStale(error)) throw error
    return digestOnce(params, control, undefined)
  }
}

function digestOnce(
  params: CopyParams,
  control: JobControl,
  recorder: SeenRecorder | undefined,
): DigestedSources {
  const isBare = remembers(params)
  using sources = openSources(params, control, { bare: isBare })
  using opened = openSourceMemory(params, sources, control)
  const scanned = opened?.scan(recorder)
  if (scanned?.contentKey !== undefined) return { contentKey: scanned.contentKey }
  const memory = scanned?.isReliable === true ? opened : undefined
  const seen = memory === undefined ? undefined : recorder?.finish()
  /** Everything that is copied was seen, and what it holds is noted. */
  let isAllSeen = seen !== undefined
  const matches: string[] = []
  const key = createContentKey()

  function digestFile(file: SourceFile, path: string): Digested {
    try {
      return { size: file.size, digest: transfer(file, path, () => control.check()) }
    } finally {
      file.close()
    }
  }

  function addMatch(source: MatchedSource): void {
    const part = key.part()
    matches.push(matchName(source))
    const inodes = new Map<string, Looked & { readonly path: string }>()

    function add(item: SourceItem): void {
      control.check()
      if (item.entry.seen === undefined) isAllSeen = false
      const path = joinPath(source.key, item.relative)
      const first = item.entry.inode === undefined ? undefined : inodes.get(item.entry.inode)
      const { entry, content } = recalled(item, path) ?? looked(item, path, first)
      part.add(recordOf(source, { ...item, entry }, first?.path), content.size, content.digest)
      if (entry.inode !== undefined && first === undefined) inodes.set(entry.inode, { ...content, path })
    }

    function recalled(item: SourceItem, path: string) {
      const row = memory?.recall(path, item.entry)
      if (row === undefined) return undefined
      const entry = row.xattrs.length === 0 ? item.entry : { ...item.entry, xattrs: row.xattrs }
      memory?.learn(path, entry, row)
      seen?.note(entry, row.digest)
      const size = entry.type === 'file' ? entry.size : 0
      return { entry, content: { size, digest: row.digest, isSame: true } }
    }

    function looked(item: SourceItem, path: string, first: Looked | undefined) {
      const entry = isBare ? withAttributes(item, first) : item.entry
      const content = first ?? (entry.type === 'file' ? contentOf(item.path, entry) : nothing)
      if (content.isSame) memory?.learn(path, entry, { digest: content.digest, xattrs: entry.xattrs })
      if (content.isSame && !mayChangeUnseen(entry)) seen?.note(entry, content.digest)
      else isAllSeen = false
      return { entry, content }
    }

    function contentOf(path: string, entry: SourceEntry): Looked {
      const file = source.view.reader.open(path)
      const digested = digestFile(file, path)
      return { ...digested, isSame: file.confirms(entry) }
    }

    /** With what the list left out; looked at again, so that all is of one moment. */
    function withAttributes({ entry, path }: SourceItem, first: Looked | undefined): SourceEntry {
      const full = source.view.reader.stat(path)
      if (full === undefined || full.type !== entry.type) throw changed(path)
      if (first !== undefined && full.inode !== entry.inode) throw changed(path)
      if (full.ctimeNs !== entry.ctimeNs || full.ino !== entry.ino || full.dev !== entry.dev)
        isAllSeen = false
      return { ...full, name: entry.name, seen: entry.seen }
    }

    if (source.entry.type !== 'directory') {
      isAllSeen = false
      add({ entry: source.entry, path: source.path, relative: '' })
      part.close()
      return
    }
    part.top(source.key)
    const nowhere = {}
    const visitor = {
      directory(_: object, item: SourceItem): object {
        add(item)
        return nowhere
      },
      file: (_: object, item: SourceItem) => add(item),
    }
    const top = { path: source.path, relative: '', place: nowhere }
    walkSource(source.view, top, { selection: source.selection, visitor })
  }

  for (const [index, input] of params.inputs.entries()) {
    if (input.kind === 'tree') {
      for (const source of sources.matches(input, index, seen)) addMatch(source)
      continue
    }
    const { size, digest } =
      input.kind === 'download'
        ? digestFile(openLocalFile(input.file), input.name)
        : digestText(input.content)
    const part = key.part()
    part.add(namedRecord(input, index), size, digest)
    part.close()
  }
  const contentKey = key.key()
  memory?.save(contentKey, 'proven')
  return seen !== undefined && isAllSeen
    ? { contentKey, seen: { ...seen.memory, matches, contentKey } }
    : { contentKey }
}

/** A helper does not say what it saw, and of an archive more is copied than its own content. */
function canBeSeen({ inputs }: CopyParams): boolean {
  return inputs.every((input) => input.kind === 'tree' && input.root.access === 'direct' && !input.unpack)
}

function remembers({ inputs }: CopyParams): boolean {
  return inputs.some(
    (input) => input.kind === 'tree' && input.root.access !== 'layers' && input.root.statTables !== undefined,
  )
}

/** Attributes and links are known by their file's times alone, which stand still for some milliseconds. */
function mayChangeUnseen({ type, xattrs, ctimeNs }: SourceEntry): boolean {
  if (type !== 'symlink' && xattrs.length === 0) return false
  return ctimeNs > BigInt(Date.now()) * 1_000_000n - settling
}

function digestText(content: string): Digested {
  const bytes = Buffer.from(content, 'utf8')
  return { size: bytes.length, digest: contentDigestOf(bytes) }
}
