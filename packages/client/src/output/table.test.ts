import { expect, test } from 'vitest'
import { emptyImageTable, formatTable } from './table.js'

test('a table is the one of the original, blank for blank', () => {
  const header = ['REPOSITORY', 'TAG', 'IMAGE ID', 'CREATED', 'SIZE']
  const row = ['bb', 'latest', 'e9155a75a36c', '2026-11-21 04:50:07', '2.13 MB']
  expect(formatTable(header, [row]).split('\n')).toEqual([
    '---------------  -----------  -----------------  ------------------------  ------------',
    ' REPOSITORY       TAG          IMAGE ID           CREATED                   SIZE       ',
    '---------------  -----------  -----------------  ------------------------  ------------',
    ' bb               latest       e9155a75a36c       2026-11-21 04:50:07       2.13 MB    ',
    '---------------  -----------  -----------------  ------------------------  ------------',
  ])
})

test('a column is five wider than its widest cell', () => {
  const [rule = '', ...lines] = formatTable(['A', 'B'], [['long name', ''], ['x']]).split('\n')
  expect(rule).toBe(`${'-'.repeat(14)}  ${'-'.repeat(6)}`)
  expect(lines.map(({ length }) => length)).toEqual(Array(5).fill(rule.length))
})

test('an empty store shows the header without SIZE', () => {
  expect(emptyImageTable).toBe(
    '-----------   ----   ---------   --------\nREPOSITORY    TAG    IMAGE ID    CREATED\n-----------   ----   ---------   --------',
  )
})
