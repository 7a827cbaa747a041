import { describeStep } from './describe.js'
import type { Step, UnneededStep } from './plan.js'
import type { StageGraph } from './stage-graph.js'

/** As many as a plan has steps at most. */
const limit = 5000

/** What stages say that are not planned, and those that a context stands in for. */
export function unneededSteps(
  { nodes }: StageGraph,
  needed: readonly number[],
  steps: readonly Step[],
): readonly UnneededStep[] {
  const planned = new Set(needed)
  const unneeded: UnneededStep[] = []
  for (const {
    index,
    label: stage,
    stage: { from, instructions },
    replaced,
  } of nodes) {
    if (planned.has(index) && !replaced) continue
    const left = planned.has(index) ? instructions : [from, ...instructions]
    const next = steps.find(({ stageIndex }) => stageIndex > index)
    const before = next?.number ?? steps.length + 1
    for (const instruction of left) {
      if (unneeded.length === limit) return unneeded
      unneeded.push({ stage, text: describeStep(instruction), before })
    }
  }
  return unneeded
}
