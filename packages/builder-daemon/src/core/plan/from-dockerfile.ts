import type { Dockerfile, Instruction } from '@isula-build/shared/dockerfile/instructions.js'
import { sourceRange, tokenRange } from '@isula-build/shared/dockerfile/source-file.js'
import { rootedPath } from '@isula-build/shared/oci/byte-path.js'
import type { ImageResolver } from '../../ports/image-resolver.js'
import { mutateConfig } from '../image/mutate.js'
import { globalArguments, unconsumedWarning } from './arguments.js'
import { fromDefinition, instructionDefinition } from './definition.js'
import { createDraft, type Draft } from './draft.js'
import { createExpander, located } from './expansion.js'
import { planCopy } from './from-copy.js'
import { planMeta } from './from-meta.js'
import { planRun } from './from-run.js'
import type { PlanOptions } from './options.js'
import type { Plan, PlannedImage, PlannedStage, Vertex, VertexId } from './plan.js'
import { type Site, type StageContext, stack, vertexBase } from './stage-context.js'
import { buildStageGraph, findOrigin, type StageGraph, type StageNode, targetStage } from './stage-graph.js'
import { resolveStages, type StageImages, triggerError } from './stage-images.js'
import {
  derivedState,
  imagePlatform,
  imageState,
  plannedImage,
  type StageState,
  scratchState,
  stateSize,
} from './stage-state.js'
import { createTurns, stageWork, type Turns } from './turns.js'
import { unneededSteps } from './unneeded-steps.js'

export type { PlanOptions } from './options.js'

/** What all stages of one plan share. */
interface Planning {
  readonly graph: StageGraph
  readonly options: PlanOptions
  readonly images: StageImages
  readonly draft: Draft
  readonly states: Map<number, StageState>
  readonly globals: ReadonlyMap<string, string>
  readonly context: (state: StageState) => StageContext
}

/**
 * Plans the target stage and what it needs. Semantics are those of BuildKit's Dockerfile frontend;
 * images are resolved, nothing else is touched. Fails with the codes of the resolver,
 * ISB_CANCELLED, ISB_DOCKERFILE_SYNTAX, ISB_UNKNOWN_STAGE, ISB_PLATFORM_UNSUPPORTED, ISB_UNSUPPORTED and
 * ISB_LIMIT_EXCEEDED; every other error but that of an unknown target points into the Dockerfile.
 */
export async function planBuild(
  dockerfile: Dockerfile,
  options: PlanOptions,
  resolver: ImageResolver,
  signal: AbortSignal,
): Promise<Plan> {
  const expander = createExpander(dockerfile.escape)
  const globals = globalArguments(dockerfile, options, expander)
  const graph = buildStageGraph(dockerfile, options, globals, expander)
  const target = targetStage(graph, options.target)
  const images = await resolveStages(graph, target, resolver, signal)

  const draft = createDraft()
  const states = new Map<number, StageState>()
  const buildArgs = new Map(Object.entries(options.buildArgs))
  const planning: Planning = {
    graph,
    options,
    images,
    draft,
    states,
    globals,
    context: (state) => ({
      state,
      buildArgs,
      globals,
      expander,
      origin: (name) => findOrigin(graph.names, name),
      originVertex: (origin, site) => {
        if (origin.kind === 'scratch') return null
        if (origin.kind === 'stage') return stateOf(states, origin.index).vertex
        return draft.sourceImage(images.image(origin), site)
      },
      addVertex: draft.addVertex,
    }),
  }
  const turns = createTurns(signal)
  for (const index of images.needed) await planStage(planning, nodeOf(graph, index), turns)

  const targetImage = withTargetOptions(stateOf(states, target), options)
  const warning = unconsumedWarning(dockerfile, options, images)
  return Object.freeze({
    vertices: draft.vertices,
    steps: draft.steps,
    unneeded: unneededSteps(graph, images.needed, draft.steps),
    target: targetImage,
    stages: committedStages(planning, target, targetImage),
    warnings: warning === undefined ? [] : [{ message: warning }],
  })
}

function nodeOf(graph: StageGraph, index: number): StageNode {
  const node = graph.nodes[index]
  if (node === undefined) throw new Error(`there is no stage ${index}`)
  return node
}

function stateOf(states: ReadonlyMap<number, StageState>, index: number): StageState {
  const state = states.get(index)
  if (state === undefined) throw new Error(`stage ${index} is not planned`)
  return state
}

async function planStage(planning: Planning, node: StageNode, turns: Turns): Promise<void> {
  const { graph, draft, images, states } = planning
  const { dockerfile } = graph
  const state = startStage(planning, node)
  states.set(node.index, state)
  if (node.replaced) return
  for (const instruction of images.triggers(node.index)) {
    try {
      planInstruction(planning, { node, state }, instruction, {
        step: draft.nextStep(),
        stageIndex: node.index,
        source: node.source,
        at: () => node.source,
      })
    } catch (error) {
      throw triggerError(error, instruction.text, node.source)
    }
    await turns.spend(1)
  }
  for (const instruction of node.stage.instructions) {
    planInstruction(planning, { node, state }, instruction, {
      step: draft.nextStep(),
      stageIndex: node.index,
      source: sourceRange(dockerfile, instruction.range),
      at: (token) => tokenRange(dockerfile, instruction.range, token),
    })
    await turns.spend(1)
  }
  const entries = stateSize(state)
  draft.countEntries(entries, node.source)
  await turns.spend(stageWork(entries))
}

/** FROM: the state the stage's first instruction finds. */
function startStage(planning: Planning, node: StageNode): StageState {
  const { draft, images, options, states } = planning
  const { base, source } = node
  const { from } = node.stage
  const site: Site = { step: draft.nextStep(), stageIndex: node.index, source, at: () => source }
  const addStep = (meaning: string, vertex?: VertexId): void => {
    const stage = base.kind === 'stage' ? { stage: base.index } : {}
    draft.addStep(node, from, site, {
      vertex,
      definition: fromDefinition(from, planning.globals, {
        meaning,
        escape: planning.graph.dockerfile.escape,
        ...stage,
      }),
    })
  }
  switch (base.kind) {
    case 'stage':
      addStep(`stage ${nodeOf(planning.graph, base.index).label}`)
      return derivedState(stateOf(states, base.index))
    case 'scratch':
      addStep('scratch')
      return scratchState(options.platform)
    case 'context': {
      const state = scratchState(options.platform)
      const context = planning.context(state)
      const vertex = contextVertex(context, site, base.context)
      stack(context, vertex, `COPY . / # context ${base.context}`)
      addStep('context', vertex.id)
      return state
    }
    case 'image': {
      const image = images.image(base)
      const state = imageState(image)
      const vertex: Vertex = {
        kind: 'image',
        ...vertexBase(planning.context(state), site),
        platform: imagePlatform(image),
        image,
      }
      draft.addVertex(vertex)
      state.vertex = vertex.id
      addStep('image', vertex.id)
      return state
    }
  }
}

/** A directory as a base: its files on top of nothing. */
function contextVertex(context: StageContext, site: Site, name: string): Vertex {
  return {
    kind: 'copy',
    ...vertexBase(context, site),
    instruction: 'COPY',
    parent: null,
    inputs: [{ kind: 'context', context: name, pattern: '.', unpack: false }],
    destination: rootedPath(''),
    intoDirectory: true,
    chown: undefined,
    chmod: undefined,
    link: false,
    parents: false,
    excludes: [],
  }
}

function planInstruction(
  planning: Planning,
  stage: { readonly node: StageNode; readonly state: StageState },
  instruction: Instruction,
  site: Site,
): void {
  const { draft } = planning
  const { node, state } = stage
  const before = { vertex: state.vertex, entries: state.history.length }
  state.variables.reads.clear()
  located(
    () => site.source,
    () => dispatch(planning.context(state), instruction, site),
  )
  const entries = state.history.slice(before.entries).map((entry) => entry.created_by ?? '')
  const vertex = state.vertex === before.vertex ? undefined : (state.vertex ?? undefined)
  draft.addStep(node, instruction, site, {
    vertex,
    definition: instructionDefinition(instruction, state, vertex === undefined ? entries : []),
  })
  for (const entry of entries) draft.countHistory(entry, site)
}

function dispatch(context: StageContext, instruction: Instruction, site: Site): void {
  switch (instruction.kind) {
    case 'run':
      planRun(context, instruction, site)
      break
    case 'copy':
    case 'add':
      planCopy(context, instruction, site)
      break
    default:
      planMeta(context, instruction, site)
  }
}

/** The target, and the stages that others are built on. */
function committedStages(
  planning: Planning,
  target: number,
  targetImage: PlannedImage,
): readonly PlannedStage[] {
  const { graph, images, states } = planning
  const nodes = images.needed.map((index) => nodeOf(graph, index))
  const bases = new Set(nodes.flatMap(({ base }) => (base.kind === 'stage' ? [base.index] : [])))
  return nodes
    .filter(({ index }) => index === target || bases.has(index))
    .map(({ index, stage }) => ({
      index,
      name: stage.name ?? String(index),
      image: index === target ? targetImage : plannedImage(stateOf(states, index)),
    }))
}

/** --label and --env change the config only, so no step depends on them. */
function withTargetOptions(state: StageState, options: PlanOptions): PlannedImage {
  const image = plannedImage(state)
  const env = Object.entries(options.env ?? {}).filter(([key]) => !state.ownEnv.has(key))
  const labels = Object.entries(options.labels ?? {})
  const withEnv = env.length === 0 ? image.config : mutateConfig(image.config, { kind: 'env', pairs: env })
  const config = labels.length === 0 ? withEnv : mutateConfig(withEnv, { kind: 'label', pairs: labels })
  return { ...image, config }
}
