import { describe, expect, test } from 'vitest'
import { BuilderError } from '../errors/builder-error.js'
import {
  canonicalName,
  familiarName,
  formatCanonical,
  formatFamiliar,
  parseReference,
  tryParseReference,
  withDefaultTag,
} from './reference.js'

const digest = `sha256:${'0a'.repeat(32)}`

describe('parseReference', () => {
  test.each([
    ['busybox', 'docker.io/library/busybox', 'busybox'],
    ['busybox:1.36', 'docker.io/library/busybox:1.36', 'busybox:1.36'],
    ['library/busybox', 'docker.io/library/busybox', 'busybox'],
    ['docker.io/busybox', 'docker.io/library/busybox', 'busybox'],
    ['index.docker.io/a/b', 'docker.io/a/b', 'a/b'],
    ['localhost/a', 'localhost/a', 'localhost/a'],
    ['localhost:5000/a/b:t', 'localhost:5000/a/b:t', 'localhost:5000/a/b:t'],
    ['[::1]:5000/a', '[::1]:5000/a', '[::1]:5000/a'],
    ['HOST/a', 'HOST/a', 'HOST/a'],
    ['a/b/c__d.e---f', 'docker.io/a/b/c__d.e---f', 'a/b/c__d.e---f'],
    ['docker.io/library/a/b', 'docker.io/library/a/b', 'library/a/b'],
    ['docker.io/a.b/c', 'docker.io/a.b/c', 'docker.io/a.b/c'],
    ['a:_-.', 'docker.io/library/a:_-.', 'a:_-.'],
    [`a@${digest}`, `docker.io/library/a@${digest}`, `a@${digest}`],
    [`a:t@${digest}`, `docker.io/library/a:t@${digest}`, `a:t@${digest}`],
    ['abc123', 'docker.io/library/abc123', 'abc123'],
  ])('%s is %s', (text, canonical, familiar) => {
    const reference = parseReference(text)
    expect(formatCanonical(reference)).toBe(canonical)
    expect(formatFamiliar(reference)).toBe(familiar)
    expect(parseReference(familiar)).toEqual(reference)
    expect(parseReference(canonical)).toEqual(reference)
  })

  test.each([
    '',
    'A',
    'a:',
    'a:-t',
    `a:${'t'.repeat(129)}`,
    'a@',
    'a@sha256:00',
    `a@${digest.toUpperCase()}`,
    `a@md5:${'0'.repeat(32)}`,
    'a//b',
    '/a',
    'a/',
    'a___b',
    '-a',
    'a-',
    'a b',
    'a\n',
    'a.',
    'ho_st.x/a',
    'host.x:port/a',
    'a:b:c',
    '0a'.repeat(32),
    'a'.repeat(256),
    `docker.io/${'a'.repeat(246)}`,
    'a'.repeat(100_000),
    '../a',
    'host.x/../a',
  ])('%j is refused', (text) => {
    expect(() => parseReference(text)).toThrow(expect.objectContaining({ code: 'ISB_REFERENCE_INVALID' }))
    expect(tryParseReference(text)).toBeUndefined()
  })

  test('a name may have 255 characters, a tag 128', () => {
    expect(canonicalName(parseReference(`h.x/${'a'.repeat(251)}`))).toHaveLength(255)
    expect(parseReference(`a:${'t'.repeat(128)}`).tag).toHaveLength(128)
  })

  test('never fails in another way, and formats what it takes', () => {
    let seed = 7
    const next = (limit: number) => {
      seed = (Math.imul(seed, 1103515245) + 12345) >>> 0
      return Math.floor((seed / 2 ** 32) * limit)
    }
    const pieces = [
      'a',
      'B',
      '0',
      '.',
      ':',
      '/',
      '@',
      '_',
      '-',
      'localhost',
      'docker.io',
      '[::1]',
      digest,
      'library/',
    ]
    for (let i = 0; i < 20_000; i++) {
      const text = Array.from({ length: 1 + next(6) }, () => pieces[next(pieces.length)]).join('')
      try {
        const reference = parseReference(text)
        expect(parseReference(formatFamiliar(reference)), text).toEqual(reference)
        expect(parseReference(formatCanonical(reference)), text).toEqual(reference)
      } catch (error) {
        if (!(error instanceof BuilderError)) throw error
      }
    }
  })
})

test('the default tag is added only where there is neither tag nor digest', () => {
  expect(withDefaultTag(parseReference('a')).tag).toBe('latest')
  expect(withDefaultTag(parseReference('a:t')).tag).toBe('t')
  expect(withDefaultTag(parseReference(`a@${digest}`))).not.toHaveProperty('tag')
})

test('names alone have no tag', () => {
  const reference = parseReference('busybox:1')
  expect([canonicalName(reference), familiarName(reference)]).toEqual([
    'docker.io/library/busybox',
    'busybox',
  ])
})
