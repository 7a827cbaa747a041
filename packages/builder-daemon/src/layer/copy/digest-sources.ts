import { createHash } from 'node:crypto'
import type { CopyParams } from '../../ports/layer-worker.js'
import { type JobControl, uncontrolled } from '../job-control.js'
import { createContentHash, directoryLine, namedRecord, recordLine, recordOf } from './content-log.js'
import { openLocalFile } from './direct-reader.js'
import type { SourceFile } from './source-reader.js'
import { type SourceItem, walkSource } from './source-walk.js'
import { type MatchedSource, openSources } from './sources.js'
import { transfer } from './transfer.js'

interface Digested {
  readonly size: number
  readonly digest: Buffer | undefined
}

/** What `copyJob` gives as `contentKey`, from the sources alone: the layers below are not looked at. */
export function digestSourcesJob(
  params: CopyParams,
  control: JobControl = uncontrolled,
): { contentKey: string } {
  const hash = createContentHash()
  using sources = openSources(params, control)

  function digestFile(file: SourceFile, path: string): Digested {
    try {
      return { size: file.size, digest: transfer(file, path, () => control.check()) }
    } finally {
      file.close()
    }
  }

  function addMatch(source: MatchedSource): void {
    const inodes = new Map<string, Digested & { readonly path: string }>()

    function add(item: SourceItem): void {
      control.check()
      const { entry } = item
      const first = entry.inode === undefined ? undefined : inodes.get(entry.inode)
      const content = first ?? contentOf(item)
      const record = recordOf(source, item, first?.path)
      hash.add(recordLine(record, content.size, content.digest))
      if (entry.inode !== undefined && first === undefined) {
        inodes.set(entry.inode, { ...content, path: record.path })
      }
    }

    function contentOf({ entry, path }: SourceItem): Digested {
      if (entry.type !== 'file') return { size: 0, digest: undefined }
      return digestFile(source.view.reader.open(path), path)
    }

    if (source.entry.type !== 'directory') {
      add({ entry: source.entry, path: source.path, relative: '' })
      return
    }
    hash.add(directoryLine(source.key))
    const nowhere = {}
    const visitor = {
      directory(_: object, item: SourceItem): object {
        add(item)
        return nowhere
      },
      file: (_: object, item: SourceItem) => add(item),
    }
    walkSource(source.view, { path: source.path, place: nowhere }, { selection: source.selection, visitor })
  }

  for (const [index, input] of params.inputs.entries()) {
    if (input.kind === 'tree') {
      for (const source of sources.matches(input, index)) addMatch(source)
      continue
    }
    const { size, digest } =
      input.kind === 'download'
        ? digestFile(openLocalFile(input.file), input.name)
        : digestText(input.content)
    hash.add(recordLine(namedRecord(input, index), size, digest))
  }
  return { contentKey: hash.key() }
}

function digestText(content: string): Digested {
  const bytes = Buffer.from(content, 'utf8')
  return { size: bytes.length, digest: createHash('sha256').update(bytes).digest() }
}
