import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { textOfBytes } from '@isula-build/shared/oci/byte-path.js'
import type { PathFilter } from './path-filter.js'
import { joinPath, type SourceEntry } from './source-reader.js'
import type { SourceView } from './source-view.js'

export interface Selection {
  /** `--exclude`. */
  readonly exclude: PathFilter | undefined
  /** `--parents`: only what this names takes part, and the directories that lead there. */
  readonly include: { includes(path: string): boolean; mayDescend(path: string): boolean } | undefined
}

/** `D` stands for a directory where things are put. */
export interface SourceVisitor<D> {
  /** `implied`: the directory only leads to something selected. */
  directory(parent: D, item: SourceItem, implied: boolean): D
  file(parent: D, item: SourceItem): void
}

export interface SourceItem {
  readonly entry: SourceEntry
  /** Where the reader finds it. */
  readonly path: string
  /** Below the directory that is copied. */
  readonly relative: string
}

export interface WalkRules<D> {
  readonly selection: Selection
  readonly visitor: SourceVisitor<D>
  /** Takes over what is below a selected directory; without it that is visited at once. */
  readonly descend?: (made: D, item: SourceItem) => void
}

/** PATH_MAX (limits.h): what lies deeper nobody reaches by its path, and walking there takes ever longer. */
const longestPath = 4096

function tooDeep(path: string): BuilderError {
  const start = textOfBytes(path.slice(0, 80))
  return new BuilderError(
    'ISB_LIMIT_EXCEEDED',
    `a directory below "/${start}…" cannot be copied: its path has more than ${longestPath} bytes`,
    { hint: 'Leave it out with the ignore file, or copy from a directory nearer to it.' },
  )
}

/**
 * Visits what is below a source directory in sorted order, a directory before its children.
 * A directory that is not selected itself is visited when the first selected thing below it is.
 */
export function walkSource<D>(
  view: SourceView,
  top: { readonly path: string; readonly relative: string; readonly place: D },
  rules: WalkRules<D>,
): void {
  const { exclude, include } = rules.selection
  const { visitor, descend } = rules

  function walk(path: string, relative: string, place: () => D): void {
    if (path.length > longestPath) throw tooDeep(path)
    for (const entry of view.list(path)) {
      const item = { entry, path: joinPath(path, entry.name), relative: joinPath(relative, entry.name) }
      const excluded = exclude?.excludes(item.relative) !== undefined
      const selected = !excluded && (include === undefined || include.includes(item.relative))
      if (entry.type !== 'directory') {
        if (selected) visitor.file(place(), item)
        continue
      }
      if (selected) {
        const made = visitor.directory(place(), item, false)
        if (descend === undefined) walk(item.path, item.relative, () => made)
        else descend(made, item)
      } else if (excluded ? exclude?.mayDescend(item.relative) : include?.mayDescend(item.relative)) {
        let made: D | undefined
        walk(item.path, item.relative, () => {
          made ??= visitor.directory(place(), item, true)
          return made
        })
      }
    }
  }

  walk(top.path, top.relative, () => top.place)
}
