import { expect, test } from 'vitest'
import { ignoreFilter } from './path-filter.js'

test('one list is compiled once, however many sources it is for', () => {
  const lines = Array.from({ length: 100_000 }, (_, i) => `no-${i}`)
  const first = ignoreFilter(lines, '.dockerignore')
  expect(ignoreFilter(lines, '.dockerignore')).toBe(first)
  expect(ignoreFilter([...lines], '.dockerignore')).not.toBe(first)
})

test('the name of the file in messages is that of each caller', () => {
  const lines = ['a']
  expect(ignoreFilter(lines, 'one')?.excludes('a')).toBe('one:1 (a)')
  expect(ignoreFilter(lines, 'two')?.excludes('a')).toBe('two:1 (a)')
})
