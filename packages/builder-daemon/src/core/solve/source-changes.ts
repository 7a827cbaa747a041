import type { LayerId } from '../../ports/layer-store.js'
import type { SourceChanges } from '../../ports/layer-worker.js'
import type { ExplainServices } from './explain.js'

/** Paths that a reason names. */
const shownPaths = 5

/** What differs between what was copied then and now; undefined where nothing tells. */
export async function sourceChanges(
  { layers, workers, lease, log }: ExplainServices,
  then: readonly LayerId[],
  now: readonly LayerId[],
): Promise<SourceChanges | undefined> {
  if (then.length === 0 || then.length !== now.length) return undefined
  try {
    await layers.hold(then, lease)
    const all = await Promise.all(
      then.map(async (id, i) => {
        const other = now[i] ?? id
        if (id === other) return undefined
        const [before, after] = [`${layers.directory(id)}/sources`, `${layers.directory(other)}/sources`]
        return await workers.run('explainSources', { before, after })
      }),
    )
    const found = all.filter((changes) => changes !== undefined)
    if (found.length === 0) return undefined
    const files = found.flatMap((changes) => changes.files).sort()
    const modes = found.flatMap((changes) => changes.modes).sort()
    const more = (shown: readonly string[], left: readonly number[]) =>
      left.reduce((sum, count) => sum + count, Math.max(0, shown.length - shownPaths))
    return {
      files: files.slice(0, shownPaths),
      moreFiles: more(
        files,
        found.map(({ moreFiles }) => moreFiles),
      ),
      modes: modes.slice(0, shownPaths),
      moreModes: more(
        modes,
        found.map(({ moreModes }) => moreModes),
      ),
    }
  } catch (error) {
    log.debug('cache.not-explained', { error: String(error) })
    return undefined
  }
}
