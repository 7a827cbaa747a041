import { expect, test } from 'vitest'
import { distance, suggest } from './suggest.js'

test('suggests the closest candidate within two edits', () => {
  expect(suggest('COYP', ['COPY', 'CMD'])).toBe('COPY')
  expect(suggest('build', ['biuld', 'built'])).toBe('built')
  expect(suggest('xyzzy', ['COPY', 'CMD'])).toBeUndefined()
  expect(suggest('', ['ab', 'abc'])).toBe('ab')
})

test('keeps the case of what was written', () => {
  expect(suggest('coyp', ['COPY'])).toBe('copy')
  expect(suggest('Coyp', ['COPY'])).toBe('COPY')
  expect(suggest('Chown', ['chown'], { caseSensitive: true })).toBe('chown')
})

test('suggests nothing for a value that is spelled right, or is endless', () => {
  expect(suggest('copy', ['COPY', 'COPE'])).toBeUndefined()
  expect(suggest('a'.repeat(1_000_000), ['a'])).toBeUndefined()
})

test('measures insertions, deletions and substitutions', () => {
  expect(distance('', 'abc')).toBe(3)
  expect(distance('kitten', 'sitting')).toBe(3)
  expect(distance('same', 'same')).toBe(0)
})
