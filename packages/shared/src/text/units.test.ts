import { expect, test } from 'vitest'
import { formatSize, parseSize } from './units.js'

// As printf("%.3g") prints the quotient.
test.each([
  [0, 1000, '0 B'],
  [1, 1000, '1 B'],
  [999, 1000, '999 B'],
  [1000, 1000, '1 KB'],
  [1001, 1000, '1 KB'],
  [1010, 1000, '1.01 KB'],
  [2_134_000, 1000, '2.13 MB'],
  [210_000_000, 1000, '210 MB'],
  [210_300_000, 1000, '210 MB'],
  [100_400_000, 1000, '100 MB'],
  [10_040_000, 1000, '10 MB'],
  [9_995_100, 1000, '10 MB'],
  [1_234_567, 1000, '1.23 MB'],
  [999_500, 1000, '1e+03 KB'],
  [999_499, 1000, '999 KB'],
  [1_125_000, 1000, '1.12 MB'],
  [1_375_000, 1000, '1.38 MB'],
  [1_536, 1024, '1.5 KB'],
  [24_628_740_096, 1024, '22.9 GB'],
  [2_500_000_000_000_000, 1000, '2.5e+03 TB'],
])('%i bytes by %i are %s', (bytes, base, shown) => {
  expect(formatSize(bytes, base === 1000 ? 1000 : 1024)).toBe(shown)
})

test.each([
  ['0', 0],
  ['500', 500],
  ['500B', 500],
  ['10GB', 10_000_000_000],
  ['10 gb', 10_000_000_000],
  ['1.5g', 1_500_000_000],
  ['512MiB', 536_870_912],
  ['2Ki', 2048],
  ['9000TB', 9_000_000_000_000_000],
  ['99999TB', undefined],
  ['', undefined],
  ['GB', undefined],
  ['-1', undefined],
  ['1e3', undefined],
  ['10GBs', undefined],
  ['5iB', undefined],
  ['constructor', undefined],
])('the size %j is %j', (text, bytes) => {
  expect(parseSize(text)).toBe(bytes)
})
