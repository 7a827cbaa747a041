import type { Scope } from '../http/exchange.js'

/** Scopes of a request in the words of the token protocol, `repository:<name>:<actions>`. */
export function scopesOf(scope: Scope | undefined): readonly string[] {
  if (scope === undefined) return []
  const { repository, actions, mountFrom } = scope
  const own = `repository:${repository}:${actions}`
  return mergeScopes(mountFrom === undefined ? [own] : [own, `repository:${mountFrom}:pull`])
}

/** What a challenge asks for: scopes separated by blanks. Only a sane number of sane ones. */
export function challengedScopes(text: string | undefined): readonly string[] {
  return (text ?? '')
    .split(/\s+/)
    .filter((scope) => /^[\x21\x23-\x5b\x5d-\x7e]{1,512}$/.test(scope))
    .slice(0, 16)
}

const actionOrder = ['pull', 'push']

/** One scope for each resource, with the actions of all; sorted, so that equal sets are equal texts. */
export function mergeScopes(scopes: readonly string[]): readonly string[] {
  const resources = new Map<string, Set<string>>()
  for (const scope of scopes) {
    const colon = scope.lastIndexOf(':')
    const resource = colon < 0 ? scope : scope.slice(0, colon)
    const actions = colon < 0 ? [] : scope.slice(colon + 1).split(',')
    resources.set(resource, new Set([...(resources.get(resource) ?? []), ...actions]))
  }
  return [...resources]
    .map(([resource, actions]) => {
      const known = actionOrder.filter((action) => actions.has(action))
      const others = [...actions].filter((action) => !actionOrder.includes(action)).sort()
      return actions.size === 0 ? resource : `${resource}:${[...known, ...others].join(',')}`
    })
    .sort()
}

/** Everything `wanted` names is in `granted`. */
export function covers(granted: readonly string[], wanted: readonly string[]): boolean {
  return mergeScopes([...granted, ...wanted]).join(' ') === mergeScopes(granted).join(' ')
}
