import { parsePlatform } from '@isula-build/shared/oci/platform.js'
import type { NamedContext, PlanOptions } from '../core/plan/options.js'
import type { Platform } from '../core/plan/plan.js'
import type { BuildOptions } from '../rpc/handlers.js'

export function planOptions(options: BuildOptions, host: Platform): PlanOptions {
  const contexts = Object.entries(options.namedContexts).map(([name, origin]): [string, NamedContext] => [
    name,
    origin.kind === 'image' ? { kind: 'image', reference: origin.reference } : { kind: 'directory' },
  ])
  return {
    target: options.target,
    buildArgs: options.buildArgs,
    labels: options.labels,
    env: options.env,
    platform: options.platform === undefined ? host : parsePlatform(options.platform, host),
    buildPlatform: host,
    contexts: Object.fromEntries(contexts),
  }
}
