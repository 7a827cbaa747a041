import { describe, expect, test } from 'vitest'
import { capabilityNames, defaultCapabilities } from './capabilities.js'
import {
  type SeccompArgument,
  type SeccompProfile,
  type SeccompRule,
  seccompProfile,
} from './seccomp-profile.js'
import { inheritedProfile, remainingProfile, type SeccompRemainder } from './seccomp-shares.js'

/** `allow`, or the errno of the refusal. */
type Decision = 'allow' | number

function matches({ value, valueTwo, op }: SeccompArgument, argument: number): boolean {
  switch (op) {
    case 'SCMP_CMP_EQ':
      return argument === value
    case 'SCMP_CMP_LT':
      return argument < value
    case 'SCMP_CMP_GT':
      return argument > value
    case 'SCMP_CMP_MASKED_EQ':
      return (BigInt(argument) & BigInt(value)) === BigInt(valueTwo ?? 0)
  }
}

type Profile = SeccompProfile | SeccompRemainder
type Rules = ReadonlyMap<string, readonly SeccompRule[]>

function byName({ syscalls }: Profile): Rules {
  const rules = new Map<string, SeccompRule[]>()
  for (const rule of syscalls) {
    for (const name of rule.names) rules.set(name, [...(rules.get(name) ?? []), rule])
  }
  return rules
}

function decider(profile: Profile): (name: string, argument: number) => Decision {
  const rules = byName(profile)
  return (name, argument) => {
    const rule = rules.get(name)?.find(({ args = [] }) => args.every((one) => matches(one, argument)))
    if (rule !== undefined) return rule.action === 'SCMP_ACT_ALLOW' ? 'allow' : (rule.errnoRet ?? 1)
    return profile.defaultAction === 'SCMP_ACT_ALLOW' ? 'allow' : profile.defaultErrnoRet
  }
}

const flags = [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000]
const argumentsTried = [0, 8, 16, 17, 37, 38, 39, 40, 41, 0x20000, 0x20008, 0xffffffff, ...flags, 0x30000011]

const widest = inheritedProfile('x64').syscalls

const capabilitySets = [
  [],
  defaultCapabilities,
  capabilityNames,
  ...capabilityNames.map((name) => [...defaultCapabilities, name]),
]

describe('the two shares of the filter of system calls', () => {
  test.each(['x64', 'arm64', 's390x', 'riscv64', 'ppc64', 'loong64', 'unknown'])(
    'let through together on %s what the profile does, whatever the capabilities',
    (architecture) => {
      const above = decider(inheritedProfile(architecture))
      const different: unknown[] = []
      for (const capabilities of capabilitySets) {
        const profile = seccompProfile(architecture, capabilities)
        const whole = decider(profile)
        const below = decider(remainingProfile(architecture, capabilities))
        const names = new Set([...profile.syscalls, ...widest].flatMap((rule) => rule.names))
        for (const name of [...names, 'call_of_a_later_kernel']) {
          for (const argument of argumentsTried) {
            const own = below(name, argument)
            // The kernel prefers the refusal of the filter that came last.
            const together = own === 'allow' ? above(name, argument) : own
            if (together !== whole(name, argument)) different.push([capabilities, name, argument])
          }
        }
      }
      expect(different).toEqual([])
    },
  )

  test('leave a container little to compile, and a runtime what it needs', () => {
    const below = remainingProfile('x64', defaultCapabilities).syscalls.flatMap(({ names }) => names)
    expect(below.length).toBeLessThan(100)
    for (const name of [
      'mount',
      'pivot_root',
      'setns',
      'unshare',
      'clone',
      'clone3',
      'keyctl',
      'sethostname',
    ]) {
      expect(decider(inheritedProfile('x64'))(name, 0)).toBe('allow')
      if (name !== 'clone') expect(below).toContain(name)
    }
  })

  test('have the same architectures', () => {
    for (const architecture of ['x64', 'arm64', 'unknown']) {
      const { architectures } = seccompProfile(architecture, [])
      expect(inheritedProfile(architecture).architectures).toEqual(architectures)
      expect(remainingProfile(architecture, []).architectures).toEqual(architectures)
    }
  })
})
