import { formatPlatform, parsePlatform } from '@isula-build/shared/oci/platform.js'
import type { NamedContext, PlanOptions } from '../core/plan/options.js'
import type { Platform } from '../core/plan/plan.js'
import type { BuildOptions } from '../rpc/handlers.js'

/** What to build for, each platform once. Fails with ISB_PLATFORM_UNSUPPORTED. */
export function buildPlatforms({ platforms }: BuildOptions, host: Platform): readonly Platform[] {
  const wanted = platforms.map((text) => parsePlatform(text, host))
  const different = new Map(wanted.map((platform) => [formatPlatform(platform), platform]))
  return different.size === 0 ? [host] : [...different.values()]
}

export function planOptions(options: BuildOptions, platform: Platform, host: Platform): PlanOptions {
  const contexts = Object.entries(options.namedContexts).map(([name, origin]): [string, NamedContext] => [
    name,
    origin.kind === 'image' ? { kind: 'image', reference: origin.reference } : { kind: 'directory' },
  ])
  return {
    target: options.target,
    buildArgs: options.buildArgs,
    labels: options.labels,
    env: options.env,
    platform,
    buildPlatform: host,
    contexts: Object.fromEntries(contexts),
  }
}
