import { expect, test } from 'vitest'
import { emptyImageTable, formatTable } from './table.js'

const linesOf = (...table: Parameters<typeof formatTable>) => {
  const text = [...formatTable(...table)].join('')
  expect(text.endsWith('\n')).toBe(true)
  return text.slice(0, -1).split('\n')
}

test('a table is the one of the original, blank for blank', () => {
  const header = ['REPOSITORY', 'TAG', 'IMAGE ID', 'CREATED', 'SIZE']
  const row = ['bb', 'latest', 'e9155a75a36c', '2026-11-21 04:50:07', '2.13 MB']
  expect(linesOf(header, [row])).toEqual([
    '---------------  -----------  -----------------  ------------------------  ------------',
    ' REPOSITORY       TAG          IMAGE ID           CREATED                   SIZE       ',
    '---------------  -----------  -----------------  ------------------------  ------------',
    ' bb               latest       e9155a75a36c       2026-11-21 04:50:07       2.13 MB    ',
    '---------------  -----------  -----------------  ------------------------  ------------',
  ])
})

test('a column is five wider than its widest cell', () => {
  const [rule = '', ...lines] = linesOf(['A', 'B'], [['long name', ''], ['x']])
  expect(rule).toBe(`${'-'.repeat(14)}  ${'-'.repeat(6)}`)
  expect(lines.map(({ length }) => length)).toEqual(Array(5).fill(rule.length))
})

test('a long table comes in pieces that end with a line', () => {
  const rows = Array.from({ length: 5000 }, (_, i) => [`name ${i}`, `${i}`])
  const pieces = [...formatTable(['A', 'B'], rows)]
  expect(pieces.length).toBeGreaterThan(2)
  expect(pieces.every((piece) => piece.endsWith('\n') && piece.length < 40_000)).toBe(true)
  const lines = linesOf(['A', 'B'], rows)
  expect(lines.slice(3, -1).map((line) => line.trim().split(/ {3,}/))).toEqual(rows)
})

test('an empty store shows the header without SIZE', () => {
  expect(emptyImageTable).toBe(
    '-----------   ----   ---------   --------\nREPOSITORY    TAG    IMAGE ID    CREATED\n-----------   ----   ---------   --------',
  )
})
