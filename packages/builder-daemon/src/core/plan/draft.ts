import type { FromInstruction, Instruction } from '@isula-build/shared/dockerfile/instructions.js'
import type { SourceRange } from '@isula-build/shared/dockerfile/source.js'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { ResolvedImage } from '../../ports/image-resolver.js'
import { describeStep } from './describe.js'
import type { Step, StepDefinition, Vertex, VertexId } from './plan.js'
import type { Site } from './stage-context.js'
import type { StageNode } from './stage-graph.js'
import { imagePlatform } from './stage-state.js'

/** Limits of one plan: far above what anyone writes, far below what would stall the daemon. */
const maxSteps = 5000
/** Characters of `created_by` in all stages together. */
const maxHistoryText = 4 * 1024 * 1024
/** Variables, labels, history entries and the like, over all stages and steps. */
const maxEntries = 500_000

/** A plan while it is made. */
export interface Draft {
  readonly vertices: readonly Vertex[]
  readonly steps: readonly Step[]
  /** The number the next step gets. */
  nextStep(): number
  addStep(
    node: StageNode,
    instruction: FromInstruction | Instruction,
    site: Site,
    made: { readonly vertex: VertexId | undefined; readonly definition: StepDefinition },
  ): void
  addVertex(vertex: Vertex): void
  /** The vertex of an image that is only copied from or mounted: one for the whole plan. */
  sourceImage(image: ResolvedImage, site: Site): VertexId
  countHistory(createdBy: string, site: Site): void
  /** Counts list entries the plan holds, which are copied from stage to stage and from step to step. */
  countEntries(entries: number, source: SourceRange): void
}

export function createDraft(): Draft {
  const vertices: Vertex[] = []
  const steps: Step[] = []
  const sourceImages = new Map<string, VertexId>()
  let historyText = 0
  let held = 0
  const countEntries = (entries: number, source: SourceRange): void => {
    held += entries
    if (held <= maxEntries) return
    throw new BuilderError(
      'ISB_LIMIT_EXCEEDED',
      `the build holds more than ${maxEntries} variables, labels and the like`,
      {
        source,
        hint: 'Use fewer stages or fewer variables, labels, ports and volumes.',
      },
    )
  }
  return {
    vertices,
    steps,
    nextStep: () => steps.length + 1,
    addStep(node, instruction, site, { vertex, definition }) {
      if (steps.length >= maxSteps) {
        throw new BuilderError('ISB_LIMIT_EXCEEDED', `the build has more than ${maxSteps} steps`, {
          source: site.source,
          hint: 'Join instructions, or split the Dockerfile.',
        })
      }
      steps.push({
        number: site.step,
        stageIndex: node.index,
        stage: node.label,
        text: describeStep(instruction),
        ...(vertex === undefined ? {} : { vertex }),
        definition,
        source: site.source,
      })
    },
    addVertex(vertex) {
      if (vertex.kind === 'run') countEntries(vertex.env.length + vertex.mounts.length, vertex.source)
      vertices.push(vertex)
    },
    countEntries,
    sourceImage(image, site) {
      const known = sourceImages.get(image.id)
      if (known !== undefined) return known
      const id = `image.${sourceImages.size}` as VertexId
      sourceImages.set(image.id, id)
      const { stageIndex, source } = site
      vertices.push({ kind: 'image', id, step: 0, stageIndex, source, platform: imagePlatform(image), image })
      return id
    },
    countHistory(createdBy, site) {
      historyText += createdBy.length
      if (historyText <= maxHistoryText) return
      throw new BuilderError('ISB_LIMIT_EXCEEDED', 'the history of this build is longer than 4 MiB', {
        source: site.source,
        hint: 'Put long scripts into files and COPY them.',
      })
    },
  }
}
