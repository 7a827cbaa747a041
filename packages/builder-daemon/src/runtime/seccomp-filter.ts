import { type FilterArgument, type FilterRule, filterSystemCalls } from '../system/seccomp.js'
import type { SeccompArgument, SeccompProfile } from './seccomp-profile.js'

/** Puts the profile on the calling thread and what it executes; false without libseccomp. */
export function applyProfile(profile: SeccompProfile): boolean {
  const architectures = (profile.architectures ?? []).map((name) =>
    name.slice('SCMP_ARCH_'.length).toLowerCase(),
  )
  const rules = profile.syscalls.map(
    ({ names, action, errnoRet, args = [] }): FilterRule => ({
      names,
      action: action === 'SCMP_ACT_ALLOW' ? 'allow' : (errnoRet ?? profile.defaultErrnoRet),
      args: args.map(({ index, value, valueTwo = 0, op }) => ({
        index,
        value,
        valueTwo,
        op: operatorOf(op),
      })),
    }),
  )
  return filterSystemCalls(profile.defaultErrnoRet, architectures, rules)
}

function operatorOf(op: SeccompArgument['op']): FilterArgument['op'] {
  switch (op) {
    case 'SCMP_CMP_LT':
      return 'LT'
    case 'SCMP_CMP_GT':
      return 'GT'
    case 'SCMP_CMP_EQ':
      return 'EQ'
    case 'SCMP_CMP_MASKED_EQ':
      return 'MASKED_EQ'
  }
}
