import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { ContainerConfig } from '@isula-build/shared/oci/image-config.js'
import type { ResolvedImage } from '../../ports/image-resolver.js'
import { type ConfigChange, mutateConfig, splitEnv } from '../image/mutate.js'
import type { ArgumentUse, PlannedHistory, PlannedImage, Platform, VertexId } from './plan.js'

/** A stage while its instructions are planned, one after the other. */
export interface StageState {
  readonly platform: Platform
  readonly base: ResolvedImage | null
  vertex: VertexId | null
  author: string | undefined
  /** Without `pending`; the scalars in it are up to date. */
  config: ContainerConfig
  /** Changes of lists and maps, put into the config together: one by one they would copy it every time. */
  pending: Collected[]
  readonly history: PlannedHistory[]
  /** What expansion and RUN see: the config's variables and the ARGs. */
  readonly variables: Variables
  /** The build args that the values of variables come from; variables that owe nothing to any are left out. */
  readonly argumentsOf: Map<string, readonly ArgumentUse[]>
  /** ARGs declared so far, with the value they had then; RUN history shows them. */
  readonly buildArgs: Map<string, string>
  /** Proxy settings that came in as build args: RUN gets them apart, nothing stores them. */
  readonly hidden: Set<string>
  /** Variables that ENV set in this build. */
  readonly ownEnv: Set<string>
  /** How often a label was set, what the base has included. */
  labels: number
  /** CMD was set in this stage, so ENTRYPOINT leaves it. */
  ownCmd: boolean
}

const defaultPath = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

const maxVariables = 5000

/** An ordered environment that hands out `NAME=value` lists without making them anew. */
export class Variables {
  readonly #entries: Map<string, string>
  /** Names that were looked up and set, since somebody cleared it. */
  readonly reads = new Set<string>()

  constructor(source?: Variables) {
    this.#entries = new Map(source === undefined ? [] : source.#entries)
  }

  get(name: string): string | undefined {
    const entry = this.#entries.get(name)
    if (entry !== undefined) this.reads.add(name)
    return entry?.slice(name.length + 1)
  }

  /** A known name keeps its place. Fails with ISB_LIMIT_EXCEEDED beyond 5000 names. */
  set(name: string, value: string): void {
    this.#entries.set(name, `${name}=${value}`)
    if (this.#entries.size <= maxVariables) return
    throw new BuilderError('ISB_LIMIT_EXCEEDED', `a stage has more than ${maxVariables} variables`, {
      hint: 'Put the values into a file and read it where they are needed.',
    })
  }

  list(without: ReadonlySet<string>): readonly string[] {
    if (without.size === 0) return [...this.#entries.values()]
    return [...this.#entries].flatMap(([name, entry]) => (without.has(name) ? [] : [entry]))
  }
}

/** `FROM scratch`. */
export function scratchState(platform: Platform): StageState {
  return startState({ platform, base: null, vertex: null, author: undefined }, { Env: [], WorkingDir: '/' })
}

/** `FROM image`; the caller puts the vertex in. */
export function imageState(image: ResolvedImage): StageState {
  const { author, config } = image.config
  return startState(
    { platform: imagePlatform(image), base: image, vertex: null, author: author || undefined },
    inheritedConfig(config),
  )
}

/** What the image says it is for. */
export function imagePlatform(image: ResolvedImage): Platform {
  const { os, architecture, variant } = image.config
  return variant ? { os, architecture, variant } : { os, architecture }
}

/** `FROM stage`: everything but its ONBUILD triggers goes on. */
export function derivedState(state: StageState): StageState {
  return {
    ...state,
    config: mutateConfig(settledConfig(state), { kind: 'onbuild-done' }),
    pending: [],
    history: [...state.history],
    variables: new Variables(state.variables),
    argumentsOf: new Map(state.argumentsOf),
    buildArgs: new Map(state.buildArgs),
    hidden: new Set(state.hidden),
    ownEnv: new Set(state.ownEnv),
    ownCmd: false,
  }
}

function startState(
  start: Pick<StageState, 'platform' | 'base' | 'vertex' | 'author'>,
  config: ContainerConfig,
): StageState {
  const env = config.Env ?? []
  const hasPath = start.platform.os === 'windows' || env.some((entry) => splitEnv(entry)[0] === 'PATH')
  const complete = hasPath ? env : [...env, defaultPath]
  const variables = new Variables()
  for (const entry of complete) variables.set(...splitEnv(entry))
  return {
    ...start,
    config: { ...config, Env: complete },
    pending: [],
    history: [],
    variables,
    argumentsOf: new Map(),
    buildArgs: new Map(),
    hidden: new Set(),
    ownEnv: new Set(),
    labels: Object.keys(config.Labels ?? {}).length,
    ownCmd: false,
  }
}

const inherited: readonly (keyof ContainerConfig)[] = [
  'Hostname',
  'User',
  'ExposedPorts',
  'Env',
  'Entrypoint',
  'Cmd',
  'ArgsEscaped',
  'Healthcheck',
  'Volumes',
  'WorkingDir',
  'Labels',
  'StopSignal',
  'Shell',
]

/** Go writes absent lists as null, and Docker adds fields that belong to its containers: both are left behind. */
function inheritedConfig(config: ContainerConfig | null | undefined): ContainerConfig {
  const known = new Set<string>(inherited)
  const kept: ContainerConfig = Object.fromEntries(
    Object.entries(config ?? {}).filter(([key, value]) => known.has(key) && value !== null),
  )
  const { WorkingDir } = kept
  if (!WorkingDir || WorkingDir.startsWith('/')) return kept
  return { ...kept, WorkingDir: `/${WorkingDir}` }
}

/** Where relative paths start. */
export function workingDirectory(state: StageState): string {
  return state.config.WorkingDir || '/'
}

/** Fails with ISB_LIMIT_EXCEEDED beyond 20,000 labels. */
export function changeConfig(state: StageState, change: ConfigChange): void {
  if (change.kind === 'label') countLabels(state, change.pairs.length)
  if (isCollected(change)) state.pending.push(change)
  else state.config = mutateConfig(state.config, change)
}

/** The image's config is made, copied and written as a whole: more take the main thread longer than others may wait. */
const maxLabels = 20_000

function countLabels(state: StageState, added: number): void {
  state.labels += added
  if (state.labels <= maxLabels) return
  throw new BuilderError('ISB_LIMIT_EXCEEDED', `a stage sets more than ${maxLabels} labels`, {
    hint: 'Put the values into a file of the image.',
  })
}

type Collected = Extract<ConfigChange, { kind: 'env' | 'label' | 'expose' | 'volume' | 'onbuild' }>

function isCollected(change: ConfigChange): change is Collected {
  const { kind } = change
  return kind === 'env' || kind === 'label' || kind === 'expose' || kind === 'volume' || kind === 'onbuild'
}

/** The config with everything in it. The kinds touch different fields, so only their own order counts. */
export function settledConfig(state: StageState): ContainerConfig {
  const of = <K extends Collected['kind']>(kind: K) =>
    state.pending.filter((change): change is Extract<Collected, { kind: K }> => change.kind === kind)
  const merged: readonly Collected[] = [
    { kind: 'env', pairs: of('env').flatMap(({ pairs }) => pairs) },
    { kind: 'label', pairs: of('label').flatMap(({ pairs }) => pairs) },
    { kind: 'expose', ports: of('expose').flatMap(({ ports }) => ports) },
    { kind: 'volume', paths: of('volume').flatMap(({ paths }) => paths) },
    { kind: 'onbuild', expressions: of('onbuild').flatMap(({ expressions }) => expressions) },
  ]
  const kinds = new Set(state.pending.map(({ kind }) => kind))
  state.config = merged.filter(({ kind }) => kinds.has(kind)).reduce(mutateConfig, state.config)
  state.pending = []
  return state.config
}

/** How many entries the state holds that a stage built on it copies. */
export function stateSize(state: StageState): number {
  const { Env = [], Labels = {}, ExposedPorts = {}, Volumes = {}, OnBuild = [] } = settledConfig(state)
  const maps = [Labels, ExposedPorts, Volumes].map((map) => Object.keys(map).length)
  return [Env.length, OnBuild.length, state.history.length, ...maps].reduce((sum, size) => sum + size, 0)
}

const historyComment = 'isula-build.dockerfile.v1'

/** Adds a history entry; with a vertex it describes that vertex's layer. */
export function addHistory(state: StageState, createdBy: string, vertex?: VertexId): void {
  state.history.push({
    created_by: createdBy,
    comment: historyComment,
    ...(vertex === undefined ? { empty_layer: true } : { vertex }),
  })
}

export function plannedImage(state: StageState): PlannedImage {
  const { vertex, base, platform, author, history } = state
  return { vertex, base, platform, author, config: settledConfig(state), history }
}
