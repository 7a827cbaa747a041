import type { Capability } from './capabilities.js'
import { capabilityNames } from './capabilities.js'
import { type SeccompProfile, type SeccompRule, seccompProfile } from './seccomp-profile.js'

/**
 * The profile of a container in two filters that one process after the other puts on itself. Compiling all of it in
 * every container takes longer than everything else a runtime does, so what no container may ever do is refused by a
 * filter that the launcher compiles once and that runtimes inherit; the container's own only takes away what a
 * runtime needs and the container must not have. The kernel lets a call through only when both do (seccomp(2)).
 */

/** What a runtime does on the way, beyond what some container may. */
const runtimeCalls: readonly string[] = ['pivot_root', 'keyctl', 'add_key', 'request_key', 'open_tree_attr']

/** For the process that starts runtimes: what a container may with every capability, and what runtimes need. */
export function inheritedProfile(architecture: string): SeccompProfile {
  const widest = seccompProfile(architecture, capabilityNames)
  const needed = new Set(runtimeCalls)
  return {
    ...widest,
    syscalls: [
      { names: runtimeCalls, action: 'SCMP_ACT_ALLOW' },
      ...widest.syscalls.map((rule) =>
        rule.action === 'SCMP_ACT_ERRNO' ? only(rule, (name) => !needed.has(name)) : rule,
      ),
    ],
  }
}

/** What is left of `seccompProfile` below `inheritedProfile`. */
export interface SeccompRemainder {
  readonly defaultAction: 'SCMP_ACT_ALLOW'
  readonly architectures?: readonly string[]
  readonly syscalls: readonly SeccompRule[]
}

export function remainingProfile(
  architecture: string,
  capabilities: readonly Capability[],
): SeccompRemainder {
  const above = inheritedCalls.get(architecture) ?? letThrough(inheritedProfile(architecture))
  inheritedCalls.set(architecture, above)
  const { architectures, syscalls } = seccompProfile(architecture, capabilities)
  return {
    defaultAction: 'SCMP_ACT_ALLOW',
    ...(architectures === undefined ? {} : { architectures }),
    syscalls: syscalls
      .filter(({ action }) => action === 'SCMP_ACT_ERRNO')
      .map((rule) => only(rule, (name) => above.has(name)))
      .filter(({ names }) => names.length > 0),
  }
}

const inheritedCalls = new Map<string, ReadonlySet<string>>()

function letThrough({ syscalls }: SeccompProfile): ReadonlySet<string> {
  return new Set(
    syscalls.flatMap(({ names, action, args }) =>
      action === 'SCMP_ACT_ALLOW' && args === undefined ? names : [],
    ),
  )
}

function only(rule: SeccompRule, wanted: (name: string) => boolean): SeccompRule {
  return { ...rule, names: rule.names.filter(wanted) }
}
