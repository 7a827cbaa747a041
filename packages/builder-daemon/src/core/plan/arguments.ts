import type { Dockerfile } from '@isula-build/shared/dockerfile/instructions.js'
import { sourceRange } from '@isula-build/shared/dockerfile/source-file.js'
import { formatPlatform } from '@isula-build/shared/oci/platform.js'
import { type Expander, located } from './expansion.js'
import { isProxyVariable, type PlanOptions } from './options.js'
import type { StageImages } from './stage-images.js'

/** Names that exist without an ARG: in FROM lines, and in a stage after a bare `ARG NAME`. */
function platformArguments(options: PlanOptions, target: string): ReadonlyMap<string, string> {
  const { platform, buildPlatform } = options
  return new Map([
    ['BUILDPLATFORM', formatPlatform(buildPlatform)],
    ['BUILDOS', buildPlatform.os],
    ['BUILDOSVERSION', ''],
    ['BUILDARCH', buildPlatform.architecture],
    ['BUILDVARIANT', buildPlatform.variant ?? ''],
    ['TARGETPLATFORM', formatPlatform(platform)],
    ['TARGETOS', platform.os],
    ['TARGETOSVERSION', ''],
    ['TARGETARCH', platform.architecture],
    ['TARGETVARIANT', platform.variant ?? ''],
    ['TARGETSTAGE', target === '' ? 'default' : target],
  ])
}

/** Values that FROM lines see, and that a stage takes over with a bare `ARG NAME`. */
export function globalArguments(
  dockerfile: Dockerfile,
  options: PlanOptions,
  expander: Expander,
): ReadonlyMap<string, string> {
  const given = new Map(Object.entries(options.buildArgs))
  const target = options.target || (dockerfile.stages.at(-1)?.name ?? '')
  const values = new Map<string, string>()
  for (const [name, value] of platformArguments(options, target)) {
    values.set(name, given.get(name) ?? value)
  }
  for (const instruction of dockerfile.metaArgs) {
    for (const { key, value } of instruction.args) {
      const chosen =
        given.get(key) ??
        (value === undefined
          ? undefined
          : located(
              () => sourceRange(dockerfile, instruction.range),
              () => expander.word(value, values),
            ))
      if (chosen !== undefined) values.set(key, chosen)
    }
  }
  return values
}

/** Names that have a meaning of their own, so that nobody has to declare them. */
function isPredefined(name: string): boolean {
  return (
    isProxyVariable(name) ||
    name === 'SOURCE_DATE_EPOCH' ||
    name.startsWith('BUILDKIT_') ||
    /^(?:BUILD|TARGET)(?:PLATFORM|OS|OSVERSION|ARCH|VARIANT)$/.test(name) ||
    name === 'TARGETSTAGE'
  )
}

/** The warning about build args that no ARG declares, in the original's words; undefined when there are none. */
export function unconsumedWarning(
  dockerfile: Dockerfile,
  options: PlanOptions,
  images: StageImages,
): string | undefined {
  const declared = new Set<string>()
  const instructions = [
    ...dockerfile.metaArgs,
    ...dockerfile.stages.flatMap((stage) => stage.instructions),
    ...images.needed.flatMap(images.triggers),
  ]
  for (const instruction of instructions) {
    if (instruction.kind === 'arg') for (const { key } of instruction.args) declared.add(key)
  }
  const unconsumed = Object.keys(options.buildArgs)
    .filter((name) => !declared.has(name) && !isPredefined(name))
    .sort()
  if (unconsumed.length === 0) return undefined
  return `One or more build-args [${unconsumed.join(' ')}] were not consumed`
}
