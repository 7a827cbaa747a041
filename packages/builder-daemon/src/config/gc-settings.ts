import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { parseSize } from '@isula-build/shared/text/units.js'
import type { CachePolicy, KeepRule } from '../core/gc/policy.js'
import type { TableReader } from './toml.js'

const day = 86_400_000
const year = 366 * day
const age = { min: 0, max: 10 * year }

/** `[gc]`: how large and how old the build cache may get. Fails with ISB_CONFIG_INVALID. */
export function gcSettings(table: TableReader | undefined): CachePolicy {
  return {
    keepBytes: table?.size('keep_storage'),
    maxAge: table?.duration('max_age', age) ?? 14 * day,
    minFree: minFree(table),
    keep: (table?.tables('keep') ?? []).map(keepRule),
  }
}

function minFree(table: TableReader | undefined): CachePolicy['minFree'] {
  const text = table?.string('min_free')
  if (table === undefined || text === undefined) return { share: 0.05 }
  const percent = /^(\d{1,3}(?:\.\d{1,6})?)%$/.exec(text)?.[1]
  if (percent !== undefined && Number(percent) <= 90) return { share: Number(percent) / 100 }
  const bytes = parseSize(text)
  if (bytes !== undefined) return { bytes }
  throw wrong(table, 'min_free', 'must be a share of the disk up to "90%", or a size like "20GB"')
}

/** `filter`: `type=layer`, `type=mount`, `id=PATTERN`; all of them have to be true. */
function keepRule(table: TableReader): KeepRule {
  const unknown = table.keys.find((key) => key !== 'filter' && key !== 'for')
  if (unknown !== undefined) throw wrong(table, unknown, 'is not known; a rule has filter and for')
  const time = table.duration('for', age)
  if (time === undefined) throw wrong(table, 'for', 'is missing')
  let rule: KeepRule = { kind: 'any', id: undefined, for: time }
  for (const filter of table.strings('filter') ?? []) {
    const [, key, value = ''] = /^(type|id)=(.+)$/s.exec(filter) ?? []
    if (key === 'id') rule = { ...rule, id: value }
    else if (key === 'type' && (value === 'layer' || value === 'mount')) rule = { ...rule, kind: value }
    else {
      const expected = 'expected type=layer, type=mount or id=PATTERN'
      throw wrong(table, 'filter', `holds ${JSON.stringify(filter)}, ${expected}`)
    }
  }
  if (rule.id !== undefined && rule.kind === 'layer') {
    throw wrong(table, 'filter', 'has an id of a layer; only cache mounts have one')
  }
  return rule
}

function wrong(table: TableReader, key: string, problem: string): BuilderError {
  return new BuilderError('ISB_CONFIG_INVALID', table.complaint(key, problem))
}
