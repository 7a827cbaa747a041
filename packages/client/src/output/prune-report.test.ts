import { expect, test } from 'vitest'
import { prunedLine, totalLines } from './prune-report.js'

const now = 1_790_000_000_000
const entry = { kind: 'LAYER', name: 'abc', bytes: 1_234_000, usedAt: now - 3_600_000, owners: [0] } as const

test('an entry is shown with its room and its last use', () => {
  expect(prunedLine(entry, false, now)).toBe('Removed layer abc: 1.23 MB, last used 1 hour ago')
  expect(prunedLine({ ...entry, kind: 'CACHE_MOUNT', name: '/root/.cache\u001b[m' }, true, now)).toBe(
    'Would remove cache mount /root/.cache\\x1b[m: 1.23 MB, last used 1 hour ago',
  )
  expect(prunedLine({ ...entry, kind: 'UNRECOGNIZED' }, false, now)).toMatch(/^Removed entry abc: /)
})

test.each([
  [0, 'less than a minute'],
  [-5, 'less than a minute'],
  [119_000, '1 minute'],
  [2 * 86_400_000, '2 days'],
])('%d milliseconds are %s', (milliseconds, text) => {
  expect(prunedLine({ ...entry, usedAt: now - milliseconds }, false, now)).toContain(`last used ${text} ago`)
})

test('the totals leave out what there is none of', () => {
  const none = { freedBytes: 0, downloads: 0, records: 0 }
  expect(totalLines(none, false)).toEqual(['Total freed: 0 B'])
  expect(totalLines({ freedBytes: 5_000_000, downloads: 2_000_000, records: 1 }, true)).toEqual([
    'Would remove 1 cache record of steps that stay on the disk',
    'Would remove unused downloads: 2 MB',
    'Would free: 5 MB',
  ])
})
