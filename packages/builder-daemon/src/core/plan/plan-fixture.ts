import { parseDockerfile } from '@isula-build/shared/dockerfile/parser.js'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { type DiffId, digestHex, digestOf } from '@isula-build/shared/oci/digest.js'
import type { ContainerConfig } from '@isula-build/shared/oci/image-config.js'
import type { ImageResolver, ResolvedImage } from '../../ports/image-resolver.js'
import type { LayerId } from '../../ports/layer-store.js'
import { planBuild } from './from-dockerfile.js'
import type { PlanOptions } from './options.js'
import type { CopyVertex, Plan, RunVertex } from './plan.js'

export const linuxAmd64 = { os: 'linux', architecture: 'amd64' } as const
export const defaultPath = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

/** An image of one layer whose digests come from its name. */
export function fakeImage(reference: string, config: ContainerConfig = {}): ResolvedImage {
  return {
    id: digestHex(digestOf(reference)),
    reference,
    config: {
      ...linuxAmd64,
      config: { Env: [defaultPath], ...config },
      rootfs: { type: 'layers', diff_ids: [digestOf(`layer of ${reference}`) as DiffId] },
      history: [{ created_by: `layer of ${reference}` }],
    },
    layers: [digestHex(digestOf(reference)).slice(0, 32) as LayerId],
  }
}

export interface FakeResolver extends ImageResolver {
  /** `reference platform`, in the order they were asked for. */
  readonly asked: readonly string[]
}

/** Knows `busybox` and what it is given. */
export function fakeResolver(images: Readonly<Record<string, ContainerConfig>> = {}): FakeResolver {
  const known = new Map(Object.entries<ContainerConfig>({ busybox: { Cmd: ['sh'] }, ...images }))
  const asked: string[] = []
  return {
    asked,
    async resolve(reference, platform) {
      asked.push(`${reference} ${platform ?? ''}`.trim())
      const config = known.get(reference)
      if (config === undefined)
        throw new BuilderError('ISB_IMAGE_NOT_FOUND', `there is no image ${reference}`)
      return fakeImage(reference, config)
    },
  }
}

/** Plans the lines of a Dockerfile. */
export async function planLines(
  lines: readonly string[],
  options: Partial<PlanOptions> = {},
  resolver: ImageResolver = fakeResolver(),
): Promise<Plan> {
  const dockerfile = parseDockerfile(`${lines.join('\n')}\n`, 'Dockerfile')
  const complete = { buildArgs: {}, platform: linuxAmd64, buildPlatform: linuxAmd64, ...options }
  return await planBuild(dockerfile, complete, resolver, new AbortController().signal)
}

/** The error that planning these lines ends with. */
export async function planFailure(
  lines: readonly string[],
  options: Partial<PlanOptions> = {},
  resolver: ImageResolver = fakeResolver(),
): Promise<BuilderError> {
  try {
    await planLines(lines, options, resolver)
  } catch (error) {
    if (error instanceof BuilderError) return error
    throw error
  }
  throw new Error('planning succeeded')
}

export function runs(plan: Plan): readonly RunVertex[] {
  return plan.vertices.filter((vertex) => vertex.kind === 'run')
}

export function copies(plan: Plan): readonly CopyVertex[] {
  return plan.vertices.filter((vertex) => vertex.kind === 'copy')
}

/** What the history of this build says, in order. */
export function historyTexts(plan: Plan): readonly (string | undefined)[] {
  return plan.target.history.map((entry) => entry.created_by)
}

/** The environment of the last RUN as an object. */
export function lastEnvironment(plan: Plan): Readonly<Record<string, string>> {
  const entries = runs(plan).at(-1)?.env ?? []
  return Object.fromEntries(
    entries.map((entry) => [entry.slice(0, entry.indexOf('=')), entry.slice(entry.indexOf('=') + 1)]),
  )
}
