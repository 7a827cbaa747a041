import { expect, test } from 'vitest'
import { parseToml, type TableReader, tableReader } from './toml.js'

function reader(text: string): TableReader {
  return tableReader(parseToml(text, 'a.toml'), text, 'a.toml')
}

test('a syntax error names file, line and column', () => {
  expect(() => reader('debug = true\ngroup = "x\n')).toThrow(/^a\.toml:2:\d+: /)
  expect(() => reader('a = 1\na = 2\n')).toThrow(/^a\.toml:2:\d+: /)
  expect(() => reader('[a\n')).toThrow(/^a\.toml:\d+:\d+: /)
})

test('an absent key and an empty string are the same', () => {
  const read = reader('group = ""\n')
  expect(read.string('group')).toBeUndefined()
  expect(read.string('other')).toBeUndefined()
  expect(read.boolean('other')).toBeUndefined()
  expect(read.tables('other')).toEqual([])
})

test('a wrong type names the key and its line', () => {
  const text = 'debug = "yes"\n\nmax = 1.5\nlist = [1, "a"]\nloglevels = 1\nloglevel = 3\n'
  const read = reader(text)
  expect(() => read.boolean('debug')).toThrow('a.toml:1: `debug` must be true or false')
  expect(() => read.integer('max', { min: 0, max: 9 })).toThrow('a.toml:3: `max` must be a whole number')
  expect(() => read.string('loglevel')).toThrow('a.toml:6: `loglevel` must be a string')
  expect(() => read.table('loglevel')).toThrow('a.toml:6: `loglevel` must be a table')
})

test('lists with a wrong element are refused by name', () => {
  expect(() => reader('list = [1, 2.5]\n').integers('list')).toThrow(
    'a.toml:1: `list` must be a list of whole numbers',
  )
  expect(() => reader('list = "one"\n').strings('list')).toThrow('a.toml:1: `list` must be a list of strings')
})

test('an integer outside its range is refused', () => {
  const read = reader('max = 0\n')
  expect(() => read.integer('max', { min: 1, max: 10 })).toThrow('a.toml:1: `max` must be between 1 and 10')
  expect(read.integer('max', { min: 0, max: 10 })).toBe(0)
})

test('the line is that of the key in its own table', () => {
  const text = 'driver = "a"\n[other]\ndriver = "b"\n\n[ storage ]\n  "driver" = 7\n'
  expect(() => reader(text).table('storage')?.string('driver')).toThrow(
    'a.toml:6: `storage.driver` must be a string',
  )
})

test('a table in the place of a value is found by its header', () => {
  expect(() => reader('a = 1\n[group.sub]\nb = 1\n').string('group')).toThrow(
    'a.toml:2: `group` must be a string',
  )
  expect(() => reader('group = "x"\n').table('group')).toThrow('a.toml:1: `group` must be a table')
})

test('arrays of tables are read one by one', () => {
  const read = reader('[[registry]]\nlocation = "a"\n[[registry]]\nlocation = "b"\n')
  expect(read.tables('registry').map((one) => one.string('location'))).toEqual(['a', 'b'])
})
