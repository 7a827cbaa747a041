import type { SourceRange } from '@isula-build/shared/dockerfile/source.js'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { Expander } from './expansion.js'
import type { Platform, Vertex, VertexId } from './plan.js'
import type { Origin } from './stage-graph.js'
import { addHistory, type StageState } from './stage-state.js'

/** One instruction being planned. */
export interface Site {
  readonly step: number
  readonly stageIndex: number
  readonly source: SourceRange
  /** Where a word of the instruction stands; the whole instruction when it is not found. */
  readonly at: (token: string) => SourceRange
}

/** What planning an instruction needs besides its stage. */
export interface StageContext {
  readonly state: StageState
  readonly buildArgs: ReadonlyMap<string, string>
  readonly globals: ReadonlyMap<string, string>
  readonly expander: Expander
  readonly origin: (name: string) => Origin
  /** The file system an origin stands for; contexts have none. */
  readonly originVertex: (origin: Exclude<Origin, { kind: 'context' }>, site: Site) => VertexId | null
  readonly addVertex: (vertex: Vertex) => void
}

/** The parts all vertices of an instruction share; its id is the stage and the step. */
export function vertexBase(
  context: StageContext,
  site: Site,
): {
  readonly id: VertexId
  readonly step: number
  readonly stageIndex: number
  readonly source: SourceRange
  readonly platform: Platform
} {
  return {
    id: `${site.stageIndex}.${site.step}` as VertexId,
    step: site.step,
    stageIndex: site.stageIndex,
    source: site.source,
    platform: context.state.platform,
  }
}

/** Puts the vertex on top of the stage, with its history. */
export function stack(context: StageContext, vertex: Vertex, createdBy: string): void {
  context.addVertex(vertex)
  context.state.vertex = vertex.id
  addHistory(context.state, createdBy, vertex.id)
}

/** Expands one word with the stage's variables. */
export function expand(context: StageContext, word: string): string {
  return context.expander.word(word, context.state.variables)
}

/** Refuses what no system call takes. */
export function withoutNul(text: string, what: string): string {
  if (!text.includes('\0')) return text
  throw new BuilderError('ISB_DOCKERFILE_SYNTAX', `${what} contains a NUL character`, {
    hint: 'Check the values of --build-arg and ENV.',
  })
}
