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
  expect(failure('foo')).toBe('ISB_ARGUMENT_INVALID: transport "foo" not support')
  expect(failure('docker-archive')).toBe('ISB_ARGUMENT_INVALID: destination should not be empty')
  expect(failure('docker-archive:')).toBe('ISB_ARGUMENT_INVALID: destination should not be empty')
  expect(failure(`docker-archive:${'a'.repeat(512)}`)).toBe(
    'ISB_ARGUMENT_INVALID: output should not longer than 512',
  )
})

test('a name without a path and a bad name are refused', () => {
  expect(failure('docker-archive::a:b')).toBe(
    'ISB_ARGUMENT_INVALID: output "docker-archive::a:b" names no path',
  )
  expect(failure('docker-archive:a.tar:Upper')).toMatch(/^ISB_REFERENCE_INVALID: /)
  expect(failure('docker-archive:a.tar:')).toMatch(/^ISB_REFERENCE_INVALID: /)
  expect(failure(`docker-archive:a.tar:${'a'.repeat(64)}`)).toMatch(/^ISB_REFERENCE_INVALID: /)
})

test('transports that are coming are told apart from unknown ones', () => {
  expect(failure('docker://host/a:b')).toMatch(/^ISB_UNSUPPORTED: .*pushing to a registry/)
  expect(failure('oci://host/a:b')).toMatch(/^ISB_UNSUPPORTED: .*OCI/)
  expect(failure('docker-daemon:a:b')).toMatch(/^ISB_UNSUPPORTED: .*dockerd/)
  expect(failure('isulad:a:b')).toMatch(/^ISB_UNSUPPORTED: .*iSulad/)
  expect(failure('isulad:a')).toBe('ISB_ARGUMENT_INVALID: invalid isulad output format: isulad:a')
})
