import { expect, test } from 'vitest'
import { BuilderError } from '../errors/builder-error.js'
import { parseOutputSpec } from './output-spec.js'

function failure(text: string): string {
  try {
    parseOutputSpec(text)
  } catch (error) {
    if (error instanceof BuilderError) return `${error.code}: ${error.message}`
    throw error
  }
  throw new Error(`${text} was accepted`)
}

test('an archive without a name only has a path', () => {
  expect(parseOutputSpec('docker-archive:/tmp/a.tar')).toEqual({
    kind: 'docker-archive',
    path: '/tmp/a.tar',
    name: undefined,
  })
})

test('a name after the path becomes a local name', () => {
  expect(parseOutputSpec('oci-archive:a.tar:busybox')).toMatchObject({
    path: 'a.tar',
    name: 'busybox:latest',
  })
  expect(parseOutputSpec('docker-archive:-:localhost:5000/a/b:1')).toMatchObject({
    path: '-',
    name: 'localhost:5000/a/b:1',
  })
})

test('the original texts are kept for what is missing', () => {
  expect(failure('')).toBe('ISB_ARGUMENT_INVALID: transport should not be empty')
  expect(failure(':x')).toBe('ISB_ARGUMENT_INVALID: transport should not be empty')
  expect(failure('foo:x')).toBe('ISB_ARGUMENT_INVALID: transport "foo" not support')
  for (const text of [
    'docker-archive',
    'docker-archive:',
    'docker://',
    'oci:',
    'isulad:',
    'docker-daemon::',
  ]) {
    expect(failure(text)).toBe('ISB_ARGUMENT_INVALID: destination should not be empty')
  }
  expect(failure(`docker-archive:${'a'.repeat(512)}`)).toBe(
    'ISB_ARGUMENT_INVALID: output should not longer than 512',
  )
  for (const text of ['isulad:a', 'isulad:a:b:c', 'isulad:a:', 'isulad:localhost:5000/a:b']) {
    expect(failure(text)).toBe(`ISB_ARGUMENT_INVALID: invalid isulad output format: ${text}`)
  }
})

test('a name without a path and a bad name are refused', () => {
  expect(failure('docker-archive::a:b')).toBe(
    'ISB_ARGUMENT_INVALID: output "docker-archive::a:b" names no path',
  )
  for (const text of ['a.tar:Upper', 'a.tar:', `a.tar:${'a'.repeat(64)}`]) {
    expect(failure(`docker-archive:${text}`)).toMatch(/^ISB_REFERENCE_INVALID: /)
  }
  for (const text of ['docker://BAD', 'oci://a@sha256:1', 'docker-daemon:Bad:1', 'isulad:Bad:1']) {
    expect(failure(text)).toMatch(/^ISB_REFERENCE_INVALID: /)
  }
})

test('engines take an image with its tag', () => {
  expect(parseOutputSpec('docker-daemon:a:1')).toEqual({ kind: 'docker-daemon', names: ['a:1'] })
  expect(parseOutputSpec('docker-daemon:localhost:5000/a:1')).toEqual({
    kind: 'docker-daemon',
    names: ['localhost:5000/a:1'],
  })
  expect(failure('docker-daemon:a')).toBe('ISB_ARGUMENT_INVALID: output "docker-daemon:a" has no tag')
  expect(failure('docker-daemon:localhost:5000/a')).toMatch(/has no tag$/)
  expect(parseOutputSpec('isulad:a/b:1')).toEqual({ kind: 'isulad', name: 'a/b:1' })
})

const asBuilt = { format: undefined, compression: undefined, level: undefined }

test('registries get the format that the transport says', () => {
  for (const format of ['docker', 'oci'] as const) {
    expect(parseOutputSpec(`${format}://localhost:5000/a/b:1`)).toEqual({
      kind: 'registry',
      references: ['localhost:5000/a/b:1'],
      push: { ...asBuilt, format },
    })
  }
  expect(failure('docker:a/b:1')).toMatch(/does not begin with \/\/$/)
})

test('what has no colon is a directory for the files, and - a tar of them', () => {
  expect(parseOutputSpec('out/files')).toEqual({ kind: 'local', path: 'out/files' })
  expect(parseOutputSpec('a=b')).toEqual({ kind: 'local', path: 'a=b' })
  expect(parseOutputSpec('-')).toEqual({ kind: 'tar', path: '-' })
  expect(parseOutputSpec('oci-dir:d:a')).toEqual({ kind: 'oci-dir', path: 'd', name: 'a:latest' })
  expect(failure('oci-dir:-')).toMatch(/cannot go to standard output$/)
})

test.each([
  ['type=local,dest=d', { kind: 'local', path: 'd' }],
  ['dest=a:b,type=local', { kind: 'local', path: 'a:b' }],
  ['type=local,"dest=a,""b"""', { kind: 'local', path: 'a,"b"' }],
  ['type=tar', { kind: 'tar', path: '-' }],
  ['type=tar,dest=f', { kind: 'tar', path: 'f' }],
  ['type=docker', { kind: 'docker-daemon', names: [] }],
  ['type=docker,"name=a,b:1"', { kind: 'docker-daemon', names: ['a:latest', 'b:1'] }],
  ['type=docker,dest=-,name=a', { kind: 'docker-archive', path: '-', name: 'a:latest' }],
  ['type=oci,dest=f', { kind: 'oci-archive', path: 'f', name: undefined }],
  ['type=oci,dest=d,tar=false', { kind: 'oci-dir', path: 'd', name: undefined }],
  ['type=image,name=a', { kind: 'image', names: ['a:latest'] }],
  ['type=image,name=r.io/a:1,push=true', { kind: 'registry', references: ['r.io/a:1'], push: asBuilt }],
  ['type=registry', { kind: 'registry', references: [], push: asBuilt }],
  [
    'type=registry,name=r.io/a,compression=zstd,compression-level=7,oci-mediatypes=true',
    { kind: 'registry', references: ['r.io/a'], push: { format: 'oci', compression: 'zstd', level: 7 } },
  ],
  [
    'type=registry,name=r.io/a,oci-mediatypes=0',
    { kind: 'registry', references: ['r.io/a'], push: { ...asBuilt, format: 'docker' } },
  ],
])('%s is read as BuildKit does', (text, expected) => {
  expect(parseOutputSpec(text)).toEqual(expected)
})

test.each([
  ['dest=d', 'output "dest=d" has no type'],
  ['type=', 'output "type=" has no type'],
  ['type=foo', 'output type "foo" not support'],
  ['type=local', 'output type=local needs dest=DIRECTORY'],
  ['type=local,dest=-', 'a directory cannot go to standard output'],
  ['type=tar,dest=', 'destination should not be empty'],
  ['type=tar,name=a', 'output type=tar has no key "name"'],
  ['type=oci,dst=a', 'output type=oci has no key "dst"'],
  ['type=oci,tar=maybe', 'output key tar is "maybe", not true or false'],
  ['type=oci,dest=a,dest=b', 'output key dest is given twice'],
  ['type=oci,dest', 'unexpected "dest" in output "type=oci,dest"'],
  ['type=oci,"dest=a"b', 'output "type=oci,\\"dest=a\\"b" has a quote in the wrong place'],
  ['type=oci,"name=a,b"', 'an archive takes one name'],
  ['type=registry,name=', 'an output has an empty name'],
  ['type=registry,compression=lzma', 'compression "lzma" is not supported'],
  ['type=registry,compression-level=3', 'compression-level needs a compression'],
  ['type=registry,compression=gzip,compression-level=10', 'compression level "10" is not supported'],
  ['type=image,compression=gzip', 'output key compression means nothing without push=true'],
])('%s is refused', (text, message) => {
  expect(failure(text)).toBe(`ISB_ARGUMENT_INVALID: ${message}`)
})

test('a misspelt key or type comes with what was meant', () => {
  const hint = (text: string): unknown => {
    try {
      return parseOutputSpec(text)
    } catch (error) {
      return error instanceof BuilderError ? error.details.hint : error
    }
  }
  expect(hint('type=oci,dst=a')).toBe('Did you mean dest?')
  expect(hint('type=regstry')).toBe('Did you mean type=registry?')
  expect(hint('type=oci,color=red')).toBe('It has dest, name, tar.')
})
