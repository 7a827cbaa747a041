import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { expect, test } from 'vitest'
import { gcSettings } from './gc-settings.js'
import { parseToml, tableReader } from './toml.js'

const read = (text: string) => gcSettings(tableReader(parseToml(text, 'c.toml'), text, 'c.toml').table('gc'))
const day = 86_400_000

function failure(text: string): string {
  try {
    read(text)
  } catch (error) {
    if (isBuilderError(error, 'ISB_CONFIG_INVALID')) return error.message
    throw error
  }
  return 'read'
}

test('without the table the defaults hold', () => {
  const defaults = { keepBytes: undefined, maxAge: 14 * day, minFree: { share: 0.05 }, keep: [] }
  expect(read('')).toEqual(defaults)
  expect(read('[gc]\nkeep_storage = ""\nmin_free = ""')).toEqual(defaults)
})

test('sizes, ages and rules are read', () => {
  expect(
    read(`[gc]
keep_storage = "20GB"
max_age = "30d"
min_free = "7.5%"
keep = [{ filter = ["type=mount", "id=go-*"], for = "60d" }, { filter = ["type=layer"], for = 3600 }, { for = "1h" }]
`),
  ).toEqual({
    keepBytes: 20e9,
    maxAge: 30 * day,
    minFree: { share: 0.075 },
    keep: [
      { kind: 'mount', id: 'go-*', for: 60 * day },
      { kind: 'layer', id: undefined, for: 3_600_000 },
      { kind: 'any', id: undefined, for: 3_600_000 },
    ],
  })
  expect(read('[gc]\nkeep_storage = 5\nmin_free = "10GiB"')).toMatchObject({
    keepBytes: 5,
    minFree: { bytes: 10 * 2 ** 30 },
  })
})

test.each([
  ['keep_storage = "20XB"', 'c.toml:2: `gc.keep_storage` must be bytes, or a size like "20GB"'],
  ['keep_storage = -1', '`gc.keep_storage` must be bytes'],
  ['min_free = "91%"', '`gc.min_free` must be a share of the disk'],
  ['min_free = "much"', '`gc.min_free` must be a share of the disk'],
  ['max_age = "old"', '`gc.max_age` must be seconds, or a duration'],
  ['keep = [{ filter = ["type=mount"] }]', '`gc.keep.for` is missing'],
  [
    'keep = [{ filter = ["type=image"], for = 1 }]',
    '`gc.keep.filter` holds "type=image", expected type=layer',
  ],
  ['keep = [{ filter = ["type=layer", "id=x"], for = 1 }]', 'has an id of a layer'],
  ['keep = [{ filters = ["type=layer"], for = 1 }]', '`gc.keep.filters` is not known'],
])('%s is refused', (line, message) => {
  expect(failure(`[gc]\n${line}\n`)).toContain(message)
})
