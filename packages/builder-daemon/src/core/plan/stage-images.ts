import type { Instruction } from '@isula-build/shared/dockerfile/instructions.js'
import { parseOnbuild } from '@isula-build/shared/dockerfile/parser.js'
import type { SourceRange } from '@isula-build/shared/dockerfile/source.js'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { formatPlatform } from '@isula-build/shared/oci/platform.js'
import { suggest } from '@isula-build/shared/text/suggest.js'
import type { ImageResolver, ResolvedImage } from '../../ports/image-resolver.js'
import { inParallel } from '../images/in-parallel.js'
import { withSource } from './expansion.js'
import {
  instructionLinks,
  type Link,
  neededStages,
  type Origin,
  type StageGraph,
  type StageNode,
} from './stage-graph.js'

type ImageOrigin = Extract<Origin, { kind: 'image' }>

/** What has to be known before the first instruction can be planned. */
export interface StageImages {
  /** Indexes of the stages to build, in the order of the file. */
  readonly needed: readonly number[]
  readonly image: (origin: ImageOrigin) => ResolvedImage
  /** ONBUILD instructions that the base of a stage brings along. */
  readonly triggers: (index: number) => readonly Instruction[]
}

/**
 * Resolves every image the target needs, each once, and reads their ONBUILD triggers, which may need
 * further stages and images.
 */
export async function resolveStages(
  graph: StageGraph,
  target: number,
  resolver: ImageResolver,
  signal: AbortSignal,
): Promise<StageImages> {
  const images = new Map<string, ResolvedImage>()
  const triggers = new Map<number, readonly Trigger[]>()
  const links = (node: StageNode) =>
    node.replaced
      ? []
      : [...node.links, ...(triggers.get(node.index) ?? []).flatMap((trigger) => trigger.links)]
  const image = (origin: ImageOrigin) => {
    const found = images.get(imageKey(origin))
    if (found === undefined) throw new Error(`image ${origin.reference} was not resolved`)
    return found
  }
  for (;;) {
    const needed = neededStages(graph, target, links)
    const nodes = needed.flatMap((index) => graph.nodes[index] ?? [])
    const wanted = nodes.flatMap((node) => [{ origin: node.base, source: () => node.source }, ...links(node)])
    await resolveImages(graph, wanted, images, { resolver, signal })
    let grown = false
    for (const node of nodes) {
      if (triggers.has(node.index)) continue
      const found = node.replaced ? [] : readTriggers(graph, node, image)
      triggers.set(node.index, found)
      grown ||= found.some((trigger) => trigger.links.length > 0)
    }
    if (!grown) {
      return {
        needed,
        image,
        triggers: (index) => (triggers.get(index) ?? []).map((trigger) => trigger.instruction),
      }
    }
  }
}

function imageKey(origin: ImageOrigin): string {
  return `${formatPlatform(origin.platform)} ${origin.reference}`
}

interface Wanted {
  readonly origin: ImageOrigin
  readonly source: () => SourceRange
}

/** More than registries serve at once, far fewer than a Dockerfile may name. */
const imagesAtOnce = 16

async function resolveImages(
  graph: StageGraph,
  wanted: readonly Link[],
  images: Map<string, ResolvedImage>,
  services: { readonly resolver: ImageResolver; readonly signal: AbortSignal },
): Promise<void> {
  const missing = new Map<string, Wanted>()
  for (const { origin, source } of wanted) {
    if (origin.kind !== 'image') continue
    const key = imageKey(origin)
    if (!images.has(key) && !missing.has(key)) missing.set(key, { origin, source })
  }
  const { resolver, signal } = services
  const failures = new Map<number, unknown>()
  const resolveOne = async ([i, [key, { origin, source }]]: [number, [string, Wanted]]): Promise<void> => {
    try {
      images.set(key, await resolver.resolve(origin.reference, formatPlatform(origin.platform), signal))
    } catch (error) {
      failures.set(i, withSource(withStageHint(graph, origin, error), source()))
      throw error
    }
  }
  try {
    await inParallel([...[...missing].entries()], imagesAtOnce, resolveOne)
  } catch (error) {
    // Of those that failed, the one that is named first.
    throw failures.get(Math.min(...failures.keys())) ?? error
  }
}

/** A name that is no image is often a stage: one that is misspelled, or comes later. */
function withStageHint(graph: StageGraph, origin: ImageOrigin, error: unknown): unknown {
  if (!(error instanceof BuilderError) || error.code !== 'ISB_IMAGE_NOT_FOUND') return error
  const index = graph.names.stages.get(origin.reference.toLowerCase())
  const later = index === undefined ? undefined : graph.nodes[index]
  if (later !== undefined) {
    const hint = `The stage of this name begins later, at line ${later.source.start.line}; move it up.`
    return new BuilderError(error.code, error.message, { ...error.details, hint })
  }
  const near = suggest(origin.reference, graph.names.stages.keys())
  if (near === undefined) return error
  return new BuilderError(error.code, error.message, {
    ...error.details,
    hint: `Did you mean the stage ${near}?`,
  })
}

interface Trigger {
  readonly instruction: Instruction
  readonly links: readonly Link[]
}

function readTriggers(
  graph: StageGraph,
  node: StageNode,
  image: (origin: ImageOrigin) => ResolvedImage,
): readonly Trigger[] {
  return triggerExpressions(graph, node.base, image).map((expression) => {
    try {
      const instruction = parseOnbuild(expression, graph.dockerfile.file)
      const links = instructionLinks(graph.names, instruction, node.index, () => node.source)
      return { instruction, links }
    } catch (error) {
      throw triggerError(error, expression, node.source)
    }
  })
}

function triggerExpressions(
  graph: StageGraph,
  base: Origin,
  image: (origin: ImageOrigin) => ResolvedImage,
): readonly string[] {
  if (base.kind === 'image') return image(base).config.config?.OnBuild ?? []
  if (base.kind !== 'stage') return []
  const stage = graph.nodes[base.index]
  if (stage === undefined) throw new Error(`there is no stage ${base.index}`)
  if (stage.replaced) return triggerExpressions(graph, stage.base, image)
  return stage.stage.instructions.flatMap((instruction) =>
    instruction.kind === 'onbuild' ? [instruction.expression] : [],
  )
}

/** An error in a trigger, shown at the FROM line that brought it: the trigger's own text is elsewhere. */
export function triggerError(error: unknown, expression: string, source: SourceRange): unknown {
  if (!(error instanceof BuilderError)) return error
  return new BuilderError(
    error.code,
    `in the ONBUILD trigger \`${expression}\` of the base: ${error.message}`,
    {
      ...error.details,
      source,
    },
  )
}
