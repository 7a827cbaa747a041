import koffi from 'koffi'

/** One rule for libseccomp(3); several arguments must all match. */
export interface FilterRule {
  readonly names: readonly string[]
  readonly action: FilterAction
  readonly args: readonly FilterArgument[]
}
export interface FilterArgument {
  readonly index: number
  readonly op: 'LT' | 'EQ' | 'GT' | 'MASKED_EQ'
  readonly value: number
  /** With MASKED_EQ, `value` is the mask and this is what has to remain. */
  readonly valueTwo: number
}
/** The errno the call fails with, or `allow`. */
export type FilterAction = 'allow' | number

const operators = { LT: 2, EQ: 4, GT: 6, MASKED_EQ: 7 } as const
const SCMP_FLTATR_CTL_NNP = 3
const SCMP_FLTATR_CTL_OPTIMIZE = 8
const EEXIST = 17

type Pointer = unknown

/** libseccomp's C functions (seccomp.h of version 2); undefined where the library is not installed. */
function library() {
  let loaded: ReturnType<typeof koffi.load>
  try {
    loaded = koffi.load('libseccomp.so.2')
  } catch {
    return undefined
  }
  const bind = <F>(prototype: string): F => loaded.func(prototype) as F
  return {
    init: bind<(action: number) => Pointer>('void *seccomp_init(uint32_t)'),
    release: bind<(filter: Pointer) => void>('void seccomp_release(void *)'),
    attribute: bind<(filter: Pointer, name: number, value: number) => number>(
      'int seccomp_attr_set(void *, int, uint32_t)',
    ),
    architecture: bind<(name: string) => number>('uint32_t seccomp_arch_resolve_name(const char *)'),
    addArchitecture: bind<(filter: Pointer, token: number) => number>(
      'int seccomp_arch_add(void *, uint32_t)',
    ),
    call: bind<(name: string) => number>('int seccomp_syscall_resolve_name(const char *)'),
    addRule: bind<(filter: Pointer, action: number, call: number, count: number, args: Buffer) => number>(
      'int seccomp_rule_add_array(void *, uint32_t, int, unsigned int, const void *)',
    ),
    load: bind<(filter: Pointer) => number>('int seccomp_load(void *)'),
    version: bind<() => Pointer>('const uint32_t *seccomp_version()'),
  }
}

/** Major, minor and patch version of libseccomp; undefined when it is not installed. */
export function libseccompVersion(): readonly number[] | undefined {
  const version = library()?.version()
  return version === undefined ? undefined : Array.from(koffi.decode(version, 'uint32_t', 3) as Uint32Array)
}

/**
 * Filters the system calls of the calling thread and of what it executes, without no_new_privs, which
 * needs CAP_SYS_ADMIN. `architectures` are libseccomp's names (`x86_64`). False when there is no
 * libseccomp. Names the library does not know are left out.
 */
export function filterSystemCalls(
  otherwise: number,
  architectures: readonly string[],
  rules: readonly FilterRule[],
): boolean {
  const seccomp = library()
  if (seccomp === undefined) return false
  const filter = seccomp.init(actionCode(otherwise))
  const check = (result: number, what: string): void => {
    if (result < 0 && result !== -EEXIST) throw new Error(`seccomp: ${what} failed with ${result}`)
  }
  check(seccomp.attribute(filter, SCMP_FLTATR_CTL_NNP, 0), 'no_new_privs')
  // Unknown before version 2.5, and only a matter of speed.
  seccomp.attribute(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2)
  for (const name of architectures) {
    const token = seccomp.architecture(name)
    if (token !== 0) check(seccomp.addArchitecture(filter, token), name)
  }
  for (const rule of rules) {
    // The library refuses rules that do what happens anyway.
    if (rule.action === otherwise) continue
    const args = encodeArguments(rule.args)
    for (const name of rule.names) {
      const number = seccomp.call(name)
      if (number === -1) continue
      check(seccomp.addRule(filter, actionCode(rule.action), number, rule.args.length, args), name)
    }
  }
  check(seccomp.load(filter), 'load')
  seccomp.release(filter)
  return true
}

function actionCode(action: FilterAction): number {
  return action === 'allow' ? 0x7fff_0000 : 0x0005_0000 | action
}

// struct scmp_arg_cmp: index, operator, two 64-bit values.
function encodeArguments(args: readonly FilterArgument[]): Buffer {
  const encoded = Buffer.alloc(Math.max(24, args.length * 24))
  for (const [at, { index, op, value, valueTwo }] of args.entries()) {
    encoded.writeUInt32LE(index, at * 24)
    encoded.writeUInt32LE(operators[op], at * 24 + 4)
    encoded.writeBigUInt64LE(BigInt(value), at * 24 + 8)
    encoded.writeBigUInt64LE(BigInt(valueTwo), at * 24 + 16)
  }
  return encoded
}
