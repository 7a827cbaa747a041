import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { expect, test } from 'vitest'
import { registryHosts, serverName } from './server-name.js'

test.each([
  ['registry.example.com', 'registry.example.com'],
  ['registry.example.com:5000/', 'registry.example.com:5000'],
  ['https://index.docker.io/v1/', 'index.docker.io'],
  ['http://h:80/some/path', 'h:80'],
  ['docker://quay.io', 'quay.io'],
  ['quay.io/team/app', 'quay.io/team/app'],
  ['localhost', 'localhost'],
  ['[::1]:5000', '[::1]:5000'],
])('%s is the registry %s', (text, server) => {
  expect(serverName(text)).toBe(server)
})

test.each([
  ['', 'invalid registry address ""'],
  ['https://', 'invalid registry address "https://"'],
  ['../../etc', 'invalid relative path detected'],
  ['..', 'invalid relative path detected'],
  ['h.io/../etc', 'invalid relative path detected'],
  ['a/b', 'invalid registry address "a/b"'],
  ['h\0', 'invalid registry address "h\\u0000"'],
  ['h.io/UPPER', 'invalid registry address "h.io/UPPER"'],
  ['user:pass@h.io', 'invalid registry address "user:pass@h.io"'],
  ['h .io', 'invalid registry address "h .io"'],
  ['-h', 'invalid registry address "-h"'],
  [`${'h'.repeat(256)}`, 'max length of server name exceeded'],
])('%j is no registry', (text, message) => {
  let error: unknown
  try {
    serverName(text)
  } catch (reason) {
    error = reason
  }
  expect(isBuilderError(error, 'ISB_ARGUMENT_INVALID')).toBe(true)
  expect((error as Error).message).toBe(message)
})

test('references name their registries, or leave it to the daemon', () => {
  expect(registryHosts(['h:5000/a', 'localhost/b:1', 'q.io/c@sha256:0'])).toEqual([
    'h:5000',
    'localhost',
    'q.io',
  ])
  expect(registryHosts(['docker://h:5000/a'])).toEqual(['h:5000'])
  expect(registryHosts(['h:5000/a', 'busybox:1'])).toBeUndefined()
  expect(registryHosts(['team/app'])).toBeUndefined()
  expect(registryHosts([])).toEqual([])
})
