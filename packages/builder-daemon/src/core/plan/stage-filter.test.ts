import { expect, test } from 'vitest'
import { filteredStages, unknownStageWarnings } from './stage-filter.js'

const stages = [{ name: 'Base' }, { name: undefined }, { name: 'web' }]

test('stages are meant by name, whatever its case, and by index', () => {
  expect(filteredStages(stages, ['base', 'WEB', '1'])).toEqual({ indexes: new Set([0, 2, 1]), unknown: [] })
})

test('a stage named like a number is that stage', () => {
  expect(filteredStages([{ name: 'a' }, { name: '0' }], ['0']).indexes).toEqual(new Set([1]))
})

test('what names no stage is told, with what may be meant', () => {
  expect(filteredStages(stages, ['3', '', '-1', '1.5'])).toEqual({
    indexes: new Set(),
    unknown: ['3', '', '-1', '1.5'],
  })
  expect(unknownStageWarnings(stages, ['bse', '7', 'web'])).toEqual([
    '--no-cache-filter: no stage named "bse", did you mean "base"?',
    '--no-cache-filter: no stage named "7"',
  ])
})
