import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

/** The mode a file gets (12 bits), from the mode its source has. */
export type ModeChange = (mode: number, isDirectory: boolean) => number

const setuid = 0o4000
const setgid = 0o2000
const sticky = 0o1000

/**
 * `--chmod`: an octal number up to 7777 or symbolic clauses as in chmod(1), e.g. `u=rwX,go=rX`, with a
 * umask of 0. Fails with ISB_ARGUMENT_INVALID.
 */
export function parseChmod(text: string): ModeChange {
  if (/^[0-9]+$/.test(text)) return octal(text)
  const clauses = text.split(',').map((clause) => parseClause(clause, text))
  return (mode, isDirectory) => clauses.reduce((current, apply) => apply(current, isDirectory), mode)
}

function octal(text: string): ModeChange {
  const value = /^[0-7]{1,12}$/.test(text) ? Number.parseInt(text, 8) : Number.NaN
  if (!(value <= 0o7777)) throw invalid(text)
  return () => value
}

function parseClause(clause: string, text: string): ModeChange {
  const parts = /^([ugoa]*)((?:[-+=](?:[ugo]|[rwxXst]*))+)$/.exec(clause)
  if (parts === null) throw invalid(text)
  const [, who = '', actions = ''] = parts
  const steps = [...actions.matchAll(/([-+=])([rwxXstugo]*)/g)].map(
    ([, operator = '', permissions = '']): ModeChange =>
      (mode, isDirectory) =>
        change(mode, { who, operator, bits: bitsOf(permissions, mode, isDirectory) }),
  )
  return (mode, isDirectory) => steps.reduce((current, apply) => apply(current, isDirectory), mode)
}

interface Permissions {
  /** Three bits, as for one class. */
  readonly rwx: number
  readonly setId: boolean
  readonly sticky: boolean
}

function bitsOf(permissions: string, mode: number, isDirectory: boolean): Permissions {
  let rwx = 0
  for (const permission of permissions) {
    if (permission === 'r') rwx |= 4
    else if (permission === 'w') rwx |= 2
    else if (permission === 'x') rwx |= 1
    else if (permission === 'X' && (isDirectory || (mode & 0o111) !== 0)) rwx |= 1
    else if (permission === 'u') rwx |= (mode >> 6) & 7
    else if (permission === 'g') rwx |= (mode >> 3) & 7
    else if (permission === 'o') rwx |= mode & 7
  }
  return { rwx, setId: permissions.includes('s'), sticky: permissions.includes('t') }
}

function change(
  mode: number,
  step: { readonly who: string; readonly operator: string; readonly bits: Permissions },
): number {
  const { operator, bits } = step
  const all = step.who === '' || step.who.includes('a')
  let value = 0
  let mask = 0
  for (const [letter, shift, id] of [
    ['u', 6, setuid],
    ['g', 3, setgid],
    ['o', 0, sticky],
  ] as const) {
    if (!all && !step.who.includes(letter)) continue
    value |= bits.rwx << shift
    mask |= 7 << shift
    if (letter !== 'o') {
      mask |= id
      if (bits.setId) value |= id
    }
  }
  if (all) mask |= sticky
  if (bits.sticky && (all || step.who.includes('o'))) value |= sticky
  if (operator === '+') return mode | value
  if (operator === '-') return mode & ~value
  return (mode & ~mask) | value
}

function invalid(text: string): BuilderError {
  return new BuilderError('ISB_ARGUMENT_INVALID', `invalid --chmod mode "${text}"`, {
    hint: 'Use an octal mode such as 0755 or a symbolic one such as u=rwX,go=rX.',
  })
}
