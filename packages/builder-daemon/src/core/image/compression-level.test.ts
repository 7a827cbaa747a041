import { expect, test } from 'vitest'
import { checkCompressionLevel, compressionRecipe, isRecipeOf } from './compression-level.js'

test('every level that exists is taken, and none', () => {
  for (let level = 1; level <= 9; level++) checkCompressionLevel('gzip', level)
  for (let level = 1; level <= 19; level++) checkCompressionLevel('zstd', level)
  checkCompressionLevel('gzip', undefined)
  expect(() => checkCompressionLevel('gzip', 10)).toThrow(
    '10 is no compression level of gzip, which has 1 to 9',
  )
})

test('a recipe is one of its compression and level', () => {
  const recipe = compressionRecipe('gzip', 1, 'zlib-1')
  expect(isRecipeOf(recipe, 'gzip', 1)).toBe(true)
  expect(isRecipeOf(recipe, 'gzip', undefined)).toBe(true)
  expect(isRecipeOf(recipe, 'gzip', 2)).toBe(false)
  expect(isRecipeOf(recipe, 'zstd', 1)).toBe(false)
  expect(isRecipeOf(compressionRecipe('zstd', 11, 'x'), 'zstd', 1)).toBe(false)
  expect(isRecipeOf(null, 'gzip', undefined)).toBe(true)
  expect(isRecipeOf(null, 'gzip', 1)).toBe(false)
})
