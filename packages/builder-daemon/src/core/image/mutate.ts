import type { ContainerConfig, Healthcheck } from '@isula-build/shared/oci/image-config.js'

/** One instruction's effect on the config, its values expanded. */
export type ConfigChange =
  | { readonly kind: 'env'; readonly pairs: readonly (readonly [key: string, value: string])[] }
  | { readonly kind: 'label'; readonly pairs: readonly (readonly [key: string, value: string])[] }
  | { readonly kind: 'user'; readonly user: string }
  | { readonly kind: 'workdir'; readonly path: string }
  /** `resetsCmd`: this build has not set CMD itself, so the inherited one goes. */
  | { readonly kind: 'entrypoint'; readonly args: readonly string[]; readonly resetsCmd: boolean }
  | { readonly kind: 'cmd'; readonly args: readonly string[] }
  /** `80/tcp`. */
  | { readonly kind: 'expose'; readonly ports: readonly string[] }
  | { readonly kind: 'volume'; readonly paths: readonly string[] }
  | { readonly kind: 'stopsignal'; readonly signal: string }
  | { readonly kind: 'shell'; readonly shell: readonly string[] }
  | { readonly kind: 'healthcheck'; readonly healthcheck: Healthcheck }
  | { readonly kind: 'onbuild'; readonly expressions: readonly string[] }
  /** The triggers have run; they are not inherited further. */
  | { readonly kind: 'onbuild-done' }

/** The config after the change; the given one stays as it is. */
export function mutateConfig(config: ContainerConfig, change: ConfigChange): ContainerConfig {
  switch (change.kind) {
    case 'env':
      return { ...config, Env: withEnv(config.Env ?? [], change.pairs) }
    case 'label':
      return { ...config, Labels: withEntries(config.Labels, change.pairs) }
    case 'user':
      return { ...config, User: change.user }
    case 'workdir':
      return { ...config, WorkingDir: change.path }
    case 'entrypoint': {
      const { Cmd, ...rest } = config
      const kept = change.resetsCmd || Cmd === undefined ? rest : { ...rest, Cmd }
      return { ...kept, Entrypoint: change.args }
    }
    case 'cmd':
      return { ...config, Cmd: change.args, ArgsEscaped: true }
    case 'expose':
      return { ...config, ExposedPorts: withKeys(config.ExposedPorts, change.ports) }
    case 'volume':
      return { ...config, Volumes: withKeys(config.Volumes, change.paths) }
    case 'stopsignal':
      return { ...config, StopSignal: change.signal }
    case 'shell':
      return { ...config, Shell: change.shell }
    case 'healthcheck':
      return { ...config, Healthcheck: change.healthcheck }
    case 'onbuild':
      return { ...config, OnBuild: [...(config.OnBuild ?? []), ...change.expressions] }
    case 'onbuild-done': {
      const { OnBuild: _, ...rest } = config
      return rest
    }
  }
}

/** `KEY=value` lists: a known key keeps its place, a new one goes to the end. */
export function withEnv(
  env: readonly string[],
  pairs: readonly (readonly [key: string, value: string])[],
): readonly string[] {
  const result = [...env]
  const places = new Map<string, number>()
  for (const [place, entry] of env.entries()) {
    const [key] = splitEnv(entry)
    if (!places.has(key)) places.set(key, place)
  }
  for (const [key, value] of pairs) {
    const place = places.get(key) ?? result.length
    places.set(key, place)
    result[place] = `${key}=${value}`
  }
  return result
}

/** `KEY=value` apart; an entry without `=` has an empty value. */
export function splitEnv(entry: string): readonly [key: string, value: string] {
  const equals = entry.indexOf('=')
  return equals < 0 ? [entry, ''] : [entry.slice(0, equals), entry.slice(equals + 1)]
}

function withEntries(
  entries: Readonly<Record<string, string>> | undefined,
  pairs: readonly (readonly [key: string, value: string])[],
): Readonly<Record<string, string>> {
  return Object.fromEntries([...Object.entries(entries ?? {}), ...pairs])
}

function withKeys(
  keys: Readonly<Record<string, Record<string, never>>> | undefined,
  added: readonly string[],
): Readonly<Record<string, Record<string, never>>> {
  return Object.fromEntries([...Object.entries(keys ?? {}), ...added.map((key) => [key, {}] as const)])
}
