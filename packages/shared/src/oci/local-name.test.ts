import { expect, test } from 'vitest'
import { localName, splitLocalName } from './local-name.js'

test.each([
  ['busybox', 'busybox:latest'],
  ['docker.io/library/busybox:1', 'busybox:1'],
  ['docker.io/team/app', 'team/app:latest'],
  ['localhost:5000/a/b', 'localhost:5000/a/b:latest'],
])('%s is kept as %s', (text, name) => {
  expect(localName(text)).toBe(name)
  expect(localName(name)).toBe(name)
})

test('a digest, an image ID and nonsense are no names', () => {
  for (const text of [`a@sha256:${'a'.repeat(64)}`, 'a'.repeat(64), '', 'A', 'a:b:c']) {
    expect(() => localName(text)).toThrow(/invalid reference|holds a digest/)
  }
})

test('a name splits at the colon of its tag, not of its port', () => {
  expect(splitLocalName('localhost:5000/a:1')).toEqual({ repository: 'localhost:5000/a', tag: '1' })
  expect(() => splitLocalName('localhost:5000/a')).toThrow()
})
