import { expect, test } from 'vitest'
import { parseChmod } from './chmod.js'

test.each([
  ['755', 0o600, false, 0o755],
  ['0', 0o777, false, 0],
  ['4755', 0o600, false, 0o4755],
  ['u=rwX,go=rX', 0o600, false, 0o644],
  ['u=rwX,go=rX', 0o711, false, 0o755],
  ['u=rwX,go=rX', 0o600, true, 0o755],
  ['+x', 0o644, false, 0o755],
  ['-w', 0o666, false, 0o444],
  ['a=r', 0o4777, false, 0o444],
  ['u+s', 0o755, false, 0o4755],
  ['g+s,o+t', 0o755, true, 0o3755],
  ['+t', 0o755, true, 0o1755],
  ['u-s', 0o6755, false, 0o2755],
  ['g=u', 0o640, false, 0o660],
  ['o=g-w', 0o660, false, 0o664],
  ['u+x-w', 0o644, false, 0o544],
  ['go=', 0o755, false, 0o700],
  ['+X', 0o644, false, 0o644],
])('%s turns %o (directory: %s) into the mode chmod(1) gives', (text, mode, isDirectory, expected) => {
  expect(parseChmod(text)(mode, isDirectory).toString(8)).toBe(expected.toString(8))
})

test.each([
  '',
  'bogus',
  '8',
  '0999',
  '10000',
  '77777777777777',
  '-1',
  'u',
  'u=rw,',
  'u+z',
  '=rw x',
  '0x7',
  ',',
])('refuses "%s"', (text) => {
  expect(() => parseChmod(text)).toThrow(expect.objectContaining({ code: 'ISB_ARGUMENT_INVALID' }))
})
