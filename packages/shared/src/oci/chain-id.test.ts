import { expect, test } from 'vitest'
import { chainId, parentKey } from './chain-id.js'
import { type DiffId, digestOf } from './digest.js'

const a = digestOf('a') as DiffId
const b = digestOf('b') as DiffId

test('the chain ID of one layer is its diff ID', () => {
  expect(chainId([a])).toBe(a)
})

test('a chain ID folds the diff IDs from the bottom', () => {
  expect(chainId([a, b])).toBe(digestOf(`${a} ${b}`))
  expect(chainId([a, b, a])).toBe(digestOf(`${digestOf(`${a} ${b}`)} ${a}`))
})

test('a parent key tells stacks apart and exists for the bottom', () => {
  expect(parentKey([])).toBe(digestOf(''))
  expect(parentKey([a, b])).not.toBe(parentKey([b, a]))
})
