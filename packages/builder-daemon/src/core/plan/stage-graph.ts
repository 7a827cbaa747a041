import type { Dockerfile, Instruction, Stage } from '@isula-build/shared/dockerfile/instructions.js'
import type { SourceRange } from '@isula-build/shared/dockerfile/source.js'
import { sourceRange, tokenRange } from '@isula-build/shared/dockerfile/source-file.js'
import { processWord } from '@isula-build/shared/dockerfile/words.js'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { parsePlatform } from '@isula-build/shared/oci/platform.js'
import { formatFamiliar, tryParseReference } from '@isula-build/shared/oci/reference.js'
import { suggest } from '@isula-build/shared/text/suggest.js'
import { type Expander, located } from './expansion.js'
import { mountOrigin } from './mount-fields.js'
import type { NamedContext, PlanOptions } from './options.js'
import type { Platform } from './plan.js'

/** What FROM, COPY --from or a mount names. */
export type Origin =
  | { readonly kind: 'stage'; readonly index: number }
  | { readonly kind: 'image'; readonly reference: string; readonly platform: Platform }
  | { readonly kind: 'context'; readonly context: string }
  | { readonly kind: 'scratch' }

/** An origin that an instruction of a stage uses besides the stage's base. */
export interface Link {
  readonly origin: Origin
  /** Where it stands; looked for only when it is shown. */
  readonly source: () => SourceRange
}

export interface StageNode {
  readonly index: number
  readonly stage: Stage
  /** What users see; '' when the file has one stage only. */
  readonly label: string
  /** The FROM line. */
  readonly source: SourceRange
  readonly base: Origin
  /** A context of this name stands in for the stage: its instructions do not count. */
  readonly replaced: boolean
  readonly links: readonly Link[]
}

export interface StageGraph {
  readonly dockerfile: Dockerfile
  readonly nodes: readonly StageNode[]
  readonly names: StageNames
}

/** Finds what a name means, first among contexts, then stages, then images. */
interface StageNames {
  readonly contexts: ReadonlyMap<string, { readonly name: string; readonly context: NamedContext }>
  /** Lower-case name to index. */
  readonly stages: ReadonlyMap<string, number>
  readonly count: number
  readonly platform: Platform
}

/**
 * Names and edges of all stages; nothing is resolved. FROM lines are expanded with `globals`. What no
 * stage may say is refused in every stage, whether it is built or not.
 */
export function buildStageGraph(
  dockerfile: Dockerfile,
  options: PlanOptions,
  globals: ReadonlyMap<string, string>,
  expander: Expander,
): StageGraph {
  const contexts = new Map(
    Object.entries(options.contexts ?? {}).map(([name, context]) => [contextKey(name), { name, context }]),
  )
  const shared = { contexts, count: dockerfile.stages.length, platform: options.platform }
  const earlier = new Map<string, number>()
  const bases = dockerfile.stages.map((stage, index) => {
    const source = sourceRange(dockerfile, stage.from.range)
    const base = located(
      () => source,
      () => stageBase(stage, { ...shared, stages: earlier }, options, (word) => expander.word(word, globals)),
    )
    if (stage.name !== undefined) earlier.set(stage.name.toLowerCase(), index)
    return { stage, index, source, ...base }
  })
  const names: StageNames = { ...shared, stages: earlier }
  const nodes = bases.map((base) => ({
    ...base,
    label: shared.count === 1 ? '' : (base.stage.name ?? `stage-${base.index}`),
    links: base.replaced
      ? []
      : base.stage.instructions.flatMap((instruction) =>
          instructionLinks(names, instruction, base.index, (token) =>
            tokenRange(dockerfile, instruction.range, token),
          ),
        ),
  }))
  return { dockerfile, nodes, names }
}

function stageBase(
  stage: Stage,
  names: StageNames,
  options: PlanOptions,
  expand: (word: string) => string,
): { readonly base: Origin; readonly replaced: boolean } {
  const name = expand(stage.from.image)
  if (name === '') {
    throw new BuilderError(
      'ISB_DOCKERFILE_SYNTAX',
      `the base name \`${stage.from.image}\` expands to nothing`,
      {
        hint: 'Give the ARG a default before the first FROM, or set it with --build-arg.',
      },
    )
  }
  const platform = stagePlatform(stage.from.platform, options, expand)
  const own = stage.name === undefined ? undefined : contextOrigin(names, stage.name, platform)
  if (own !== undefined) return { base: own, replaced: true }
  const origin = contextOrigin(names, name, platform)
  if (origin !== undefined) return { base: origin, replaced: false }
  const index = names.stages.get(name.toLowerCase())
  if (index !== undefined) return { base: { kind: 'stage', index }, replaced: false }
  if (name === 'scratch') return { base: { kind: 'scratch' }, replaced: false }
  return { base: { kind: 'image', reference: name, platform }, replaced: false }
}

function stagePlatform(
  written: string | undefined,
  options: PlanOptions,
  expand: (word: string) => string,
): Platform {
  if (written === undefined) return options.platform
  const text = expand(written)
  if (text !== '') return parsePlatform(text, options.buildPlatform)
  throw new BuilderError('ISB_DOCKERFILE_SYNTAX', `the platform \`${written}\` expands to nothing`, {
    hint: 'Use $BUILDPLATFORM, $TARGETPLATFORM or a platform like linux/arm64.',
  })
}

function contextOrigin(names: StageNames, name: string, platform: Platform): Origin | undefined {
  if (name === 'scratch' || name === 'context') return undefined
  const found = names.contexts.get(contextKey(name))
  if (found === undefined) return undefined
  if (found.context.kind === 'directory') return { kind: 'context', context: found.name }
  if (found.context.reference === 'scratch') return { kind: 'scratch' }
  return { kind: 'image', reference: found.context.reference, platform }
}

/** `alpine`, `alpine:latest` and `docker.io/library/alpine` are one name; stage names have no case. */
function contextKey(name: string): string {
  const lower = name.toLowerCase()
  const reference = tryParseReference(name) ?? tryParseReference(lower)
  return reference === undefined ? lower : formatFamiliar(reference).replace(/:latest$/, '')
}

/** What COPY --from or a mount names: a context, a stage by name or index, else an image. */
export function findOrigin(names: StageNames, name: string): Origin {
  const context = contextOrigin(names, name, names.platform)
  if (context !== undefined) return context
  const index = /^[+-]?[0-9]+$/.test(name) ? Number(name) : names.stages.get(name.toLowerCase())
  if (index !== undefined) {
    if (index >= 0 && index < names.count) return { kind: 'stage', index }
    const last = names.count === 1 ? 'there is only stage 0' : `the stages are 0 to ${names.count - 1}`
    throw new BuilderError('ISB_UNKNOWN_STAGE', `invalid stage index ${name}`, { hint: `Here ${last}.` })
  }
  if (name === 'scratch') return { kind: 'scratch' }
  return { kind: 'image', reference: name, platform: names.platform }
}

/** The origins an instruction uses. Fails when it names its own stage or needs expansion to be known. */
export function instructionLinks(
  names: StageNames,
  instruction: Instruction,
  index: number,
  at: (token: string) => SourceRange,
): readonly Link[] {
  if (instruction.kind === 'copy' || instruction.kind === 'add') {
    const { from } = instruction
    if (from === undefined || from === '') return []
    const source = () => at(from)
    return [{ origin: located(source, () => stageReference(names, from, index)), source }]
  }
  if (instruction.kind !== 'run') return []
  return instruction.mounts.flatMap((mount) => {
    const source = () => at(mount)
    const from = located(source, () => mountOrigin(mount))
    if (from === undefined) return []
    return [{ origin: located(source, () => checkOwn(findOrigin(names, from), from, index)), source }]
  })
}

function stageReference(names: StageNames, from: string, index: number): Origin {
  if (processWord(from, new Map()).result !== from) {
    throw new BuilderError(
      'ISB_DOCKERFILE_SYNTAX',
      `variable expansion is not supported in \`--from=${from}\``,
      {
        hint: 'Name a stage with `FROM image AS name`, where ARGs before the first FROM are expanded, and copy from that.',
      },
    )
  }
  return checkOwn(findOrigin(names, from), from, index)
}

function checkOwn(origin: Origin, written: string, index: number): Origin {
  if (origin.kind !== 'stage' || origin.index !== index) return origin
  throw new BuilderError(
    'ISB_UNKNOWN_STAGE',
    `circular dependency: stage ${index} takes files from itself (\`${written}\`)`,
    {
      hint: 'A stage can only take files from stages before it.',
    },
  )
}

/** The stage that --target names, or the last one. */
export function targetStage(graph: StageGraph, target: string | undefined): number {
  const last = graph.nodes.length - 1
  if (target === undefined || target === '') return last
  const named = graph.names.stages.get(target.toLowerCase())
  if (named !== undefined) return named
  if (/^[0-9]+$/.test(target) && Number(target) <= last) return Number(target)
  const near = suggest(target, graph.names.stages.keys())
  const known = [...graph.names.stages.keys()]
  const list =
    known.length === 0 ? 'No stage has a name.' : `The stages are ${known.slice(0, 20).join(', ')}.`
  throw new BuilderError('ISB_UNKNOWN_STAGE', `there is no stage ${JSON.stringify(target)} to build`, {
    hint: near === undefined ? list : `Did you mean ${near}?`,
  })
}

/**
 * Indexes of the stages that `target` needs, in the order of the file. `links` gives what a stage uses
 * besides its base. Fails when one of them uses a later stage.
 */
export function neededStages(
  graph: StageGraph,
  target: number,
  links: (node: StageNode) => readonly Link[],
): readonly number[] {
  const needed = new Set([target])
  for (const index of needed) {
    const node = graph.nodes[index]
    if (node === undefined) throw new Error(`there is no stage ${index}`)
    if (node.base.kind === 'stage') needed.add(node.base.index)
    for (const { origin, source } of links(node)) {
      if (origin.kind !== 'stage') continue
      const used = graph.nodes[origin.index]
      if (origin.index > index && used !== undefined) throw laterStage(used, source())
      needed.add(origin.index)
    }
  }
  return [...needed].sort((a, b) => a - b)
}

function laterStage(used: StageNode, source: SourceRange): BuilderError {
  const name = used.stage.name ?? String(used.index)
  return new BuilderError(
    'ISB_UNKNOWN_STAGE',
    `stage "${name}" is defined later, at line ${used.source.start.line}`,
    { source, hint: 'A stage can only take files from stages before it; move that stage up.' },
  )
}
