import { expect, test } from 'vitest'
import { isBuilderError } from '../errors/builder-error.js'
import { parseCacheFrom, parseCacheTo } from './cache-spec.js'

const plain = { compression: undefined, ignoreError: false }

function failure(parse: (text: string) => unknown, text: string): string {
  try {
    parse(text)
  } catch (error) {
    if (isBuilderError(error)) return `${error.code} ${error.message} ${error.hint ?? ''}`.trimEnd()
    throw error
  }
  return 'parsed'
}

test('a cache to read is a registry or a directory', () => {
  const registry = { kind: 'registry', reference: 'h:5000/app/cache:main' }
  expect(parseCacheFrom('h:5000/app/cache:main')).toEqual(registry)
  expect(parseCacheFrom('type=registry,ref=h:5000/app/cache:main')).toEqual(registry)
  expect(parseCacheFrom('type=local,src=../cache')).toEqual({ kind: 'directory', path: '../cache' })
  expect(parseCacheFrom('"src=a,b",type=local')).toEqual({ kind: 'directory', path: 'a,b' })
})

test('a cache to write has a mode, min when nothing is said', () => {
  const directory = { kind: 'directory', path: '/c' }
  expect(parseCacheTo('type=local,dest=/c')).toEqual({ location: directory, mode: 'min', ...plain })
  expect(parseCacheTo('type=local,dest=/c,mode=max')).toEqual({ location: directory, mode: 'max', ...plain })
  expect(parseCacheTo('type=local,dest=/c,compression=zstd,ignore-error=true')).toEqual({
    ...{ location: directory, mode: 'min', compression: 'zstd', ignoreError: true },
  })
  expect(parseCacheTo('app/cache')).toEqual({
    location: { kind: 'registry', reference: 'app/cache' },
    ...{ mode: 'min', ...plain },
  })
})

test.each([
  ['', 'ISB_ARGUMENT_INVALID --cache-from is empty'],
  ['ref=a', 'ISB_ARGUMENT_INVALID --cache-from has no type'],
  ['type=registry', 'ISB_ARGUMENT_INVALID --cache-from type=registry has no ref'],
  ['type=registry,ref=', 'ISB_ARGUMENT_INVALID --cache-from type=registry has no ref'],
  ['type=registry,ref=A B', 'ISB_REFERENCE_INVALID'],
  ['type=local,dest=/c', 'ISB_ARGUMENT_INVALID --cache-from type=local has no key "dest" It has src.'],
  ['type=local,srv=/c', 'ISB_ARGUMENT_INVALID --cache-from type=local has no key "srv" Did you mean src?'],
  ['type=locale,src=/c', 'type "locale" is not supported Did you mean type=local?'],
  ['type=gha', 'ISB_UNSUPPORTED --cache-from type=gha is not supported Use type=registry'],
  ['type=local,src=a,src=b', 'ISB_ARGUMENT_INVALID --cache-from key src is given twice'],
  ['type=registry,ref=a,mode=max', 'has no key "mode"'],
  ['type=__proto__,x=1', 'type "__proto__" is not supported'],
])('--cache-from %j is refused', (text, message) => {
  expect(failure(parseCacheFrom, text)).toContain(message)
})

test('--cache-to knows two modes', () => {
  expect(failure(parseCacheTo, 'type=local,dest=/c,compression=xz')).toBe(
    'ISB_ARGUMENT_INVALID --cache-to compression "xz" is not supported Use gzip or zstd.',
  )
  expect(failure(parseCacheTo, 'type=local,dest=/c,ignore-error=1')).toMatch(
    /^ISB_ARGUMENT_INVALID --cache-to ignore-error "1" is not true or false/,
  )
  expect(failure(parseCacheTo, 'type=local,dest=/c,mode=all')).toBe(
    'ISB_ARGUMENT_INVALID --cache-to mode "all" is not supported Use mode=min or mode=max.',
  )
})
