import type { Stage } from '@isula-build/shared/dockerfile/instructions.js'
import { suggest } from '@isula-build/shared/text/suggest.js'

/** Stages that a list of names (of any case) and indexes means, and what it names besides. */
export function filteredStages(
  stages: readonly Pick<Stage, 'name'>[],
  filter: readonly string[],
): { readonly indexes: ReadonlySet<number>; readonly unknown: readonly string[] } {
  const byName = new Map(stages.map(({ name }, index) => [name?.toLowerCase() ?? '', index]))
  byName.delete('')
  const indexes = new Set<number>()
  const unknown: string[] = []
  for (const wanted of filter) {
    const named = byName.get(wanted.toLowerCase())
    const index = named ?? (/^\d{1,9}$/.test(wanted) ? Number(wanted) : Number.NaN)
    if (index < stages.length) indexes.add(index)
    else unknown.push(wanted)
  }
  return { indexes, unknown }
}

/** One line for each name of `--no-cache-filter` that is no stage's. */
export function unknownStageWarnings(
  stages: readonly Pick<Stage, 'name'>[],
  filter: readonly string[],
): readonly string[] {
  const names = stages.flatMap(({ name }) => name ?? [])
  return filteredStages(stages, filter).unknown.map((wanted) => {
    const meant = suggest(wanted, names)
    const text = `--no-cache-filter: no stage named ${JSON.stringify(wanted)}`
    return meant === undefined ? text : `${text}, did you mean ${JSON.stringify(meant)}?`
  })
}
