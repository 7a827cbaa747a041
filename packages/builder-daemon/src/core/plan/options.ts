import type { Platform } from './plan.js'

/** What a name given with --build-context stands for. */
export type NamedContext =
  | { readonly kind: 'image'; readonly reference: string }
  | { readonly kind: 'directory' }

export interface PlanOptions {
  /** Stage name or index; the last stage when absent. */
  readonly target?: string | undefined
  readonly buildArgs: Readonly<Record<string, string>>
  /** Set on the target image after its own instructions. */
  readonly labels?: Readonly<Record<string, string>> | undefined
  /** Set in the target image's config; the Dockerfile's ENV wins, the base's does not. */
  readonly env?: Readonly<Record<string, string>> | undefined
  /** What to build for. */
  readonly platform: Platform
  /** What the build runs on. */
  readonly buildPlatform: Platform
  /** They override stages and images of the same name in FROM, COPY --from and mounts. */
  readonly contexts?: Readonly<Record<string, NamedContext>> | undefined
}

/** Build args that need no ARG, reach every RUN and are stored nowhere; in lower case, any case is meant. */
const proxyNames = new Set(['http_proxy', 'https_proxy', 'ftp_proxy', 'no_proxy', 'all_proxy'])

export function isProxyVariable(name: string): boolean {
  return proxyNames.has(name.toLowerCase())
}

/** The build args that are proxy settings, as `NAME=value`: what a RUN gets beside the environment of its vertex. */
export function proxyArguments(buildArgs: Readonly<Record<string, string>>): readonly string[] {
  return Object.entries(buildArgs)
    .filter(([name]) => isProxyVariable(name))
    .map(([name, value]) => `${name}=${value}`)
}
