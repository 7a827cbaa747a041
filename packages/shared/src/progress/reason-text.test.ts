import { expect, test } from 'vitest'
import type { CacheReason } from './cache-reason.js'
import { reasonText } from './reason-text.js'

const cases: readonly (readonly [CacheReason, string])[] = [
  [{ kind: 'instruction-changed' }, 'instruction-changed'],
  [{ kind: 'arg-changed', name: 'VERSION' }, 'arg-changed VERSION'],
  [
    { kind: 'base-changed', from: `sha256:${'ab'.repeat(32)}`, to: 'cd'.repeat(32) },
    'base-changed abababababab→cdcdcdcdcdcd',
  ],
  [{ kind: 'base-changed', from: 'scratch', to: 'x:1' }, 'base-changed scratch→x:1'],
  [{ kind: 'files-changed', paths: ['a', 'b'], more: 3 }, 'files-changed [a, b, +3]'],
  [{ kind: 'mode-changed', paths: ['bin/run'], more: 0 }, 'mode-changed [bin/run]'],
  [{ kind: 'parent-missed', step: 4 }, 'parent-missed 4'],
  [{ kind: 'evicted', at: 1_790_000_000_000 }, 'evicted 2026-09-21T14:13:20.000Z'],
  [{ kind: 'no-cache' }, 'no-cache'],
  [{ kind: 'never-built' }, 'never-built'],
]

test.each(cases)('%j is told in its own words', (reason, text) => {
  expect(reasonText(reason)).toBe(text)
})
