import { formatCanonical, parseReference, withDefaultTag } from '@isula-build/shared/oci/reference.js'
import { describe, expect, test } from 'vitest'
import { decodeRegistries } from '../../config/registries-file.js'
import { isLocation, isPrefix, prefixLength } from './prefix.js'
import {
  candidatesOf,
  destinationOf,
  endpointsOf,
  listsOf,
  type RegistryTable,
  serverOf,
} from './registry-table.js'

const table = (toml: string): RegistryTable => decodeRegistries(toml, 'registries.toml').table
const hex = 'a'.repeat(64)

/** `host/repository`, with `!` where insecure and `~` where a mirror. */
function endpoints(toml: string, reference: string): readonly string[] {
  return endpointsOf(table(toml), withDefaultTag(parseReference(reference))).map(
    ({ host, repository, insecure, mirror }) =>
      `${mirror ? '~' : ''}${host}/${repository}${insecure ? '!' : ''}`,
  )
}

describe('a prefix covers a reference', () => {
  test.each([
    ['quay.io/a:1', 'quay.io', true],
    ['quay.io/team/a:1', 'quay.io/team', true],
    ['quay.io/team/a:1', 'quay.io/team/a', true],
    ['quay.io/team/a:1', 'quay.io/team/a:1', true],
    [`quay.io/team/a@sha256:${hex}`, 'quay.io/team/a', true],
    ['quay.io/teams/a:1', 'quay.io/team', false],
    ['quay.io/team/a:10', 'quay.io/team/a:1', false],
    ['quay.iox/a:1', 'quay.io', false],
    ['xquay.io/a:1', 'quay.io', false],
    ['quay.io:5000/a:1', 'quay.io:5000', true],
    ['quay.io:5000/a:1', 'quay.io', true],
    ['quay.io:5000/a:1', 'quay.io:500', false],
    ['[::1]:5000/a:1', '[::1]:5000', true],
    ['[::1]:5000/a:1', '[::1]', true],
    ['[::11]/a:1', '[::1]', false],
    ['a.example.com/x:1', '*.example.com', true],
    ['a.b.example.com:80/x:1', '*.example.com', true],
    ['example.com/x:1', '*.example.com', false],
    ['badexample.com/x:1', '*.example.com', false],
    ['a.example.com.evil.net/x:1', '*.example.com', false],
    ['evil.net/a.example.com/x:1', '*.example.com', false],
    ['evil.net:1/a.example.com:1', '*.example.com', false],
  ])('%s by %s: %s', (reference, prefix, covered) => {
    expect(prefixLength(reference, prefix) !== undefined).toBe(covered)
  })

  test.each([
    'quay.io',
    'quay.io:5000',
    '[::1]:5000/a/b',
    '*.a.b',
    'h/a/b:tag',
    `h/a@sha256:${hex}`,
    'localhost',
  ])('%s may be one', (text) => expect(isPrefix(text)).toBe(true))

  test.each([
    ...[
      '',
      '*',
      '*.',
      '*.a:5',
      '*.a/b',
      'a.*.b',
      '*a',
      'a b',
      'h/A',
      'h//a',
      'h/../a',
      'h/a:',
      '/a',
      'h:port',
    ],
    ...['h/a@sha256:1', 'h\0', '-h', 'h/a?b', 'http://h'],
  ])('%j may be none', (text) => {
    expect(isPrefix(text)).toBe(false)
    expect(isLocation(text)).toBe(false)
  })
})

describe('where an image is read', () => {
  test('without a rule, at its own registry', () => {
    expect(endpoints('', 'busybox')).toEqual(['docker.io/library/busybox'])
    expect(endpoints('', '[::1]:5000/a/b')).toEqual(['[::1]:5000/a/b'])
  })

  test('the longest prefix wins, wherever it stands', () => {
    const toml = `
[[registry]]
prefix = "quay.io/team/secret"
location = "three.test/x"
[[registry]]
location = "quay.io"
insecure = true
[[registry]]
prefix = "quay.io/team"
location = "two.test"
`
    expect(endpoints(toml, 'quay.io/other/a')).toEqual(['quay.io/other/a!'])
    expect(endpoints(toml, 'quay.io/team/a')).toEqual(['two.test/a'])
    expect(endpoints(toml, 'quay.io/team/secret/a')).toEqual(['three.test/x/a'])
  })

  test('a host weighs more than a wildcard for it, a longer wildcard more than a shorter one', () => {
    const toml = ['*.b.test|one.test', 'a.b.test|two.test', '*.test|three.test']
      .map((pair) => pair.split('|'))
      .map(([prefix, location]) => `[[registry]]\nprefix = "${prefix}"\nlocation = "${location}"\n`)
      .join('')
    expect(endpoints(toml, 'a.b.test/x')).toEqual(['two.test/x'])
    expect(endpoints(toml, 'c.b.test/x')).toEqual(['one.test/x'])
    expect(endpoints(toml, 'd.test/x')).toEqual(['three.test/x'])
  })

  test('a wildcard without a location changes no name', () => {
    expect(endpoints('[[registry]]\nprefix = "*.test"\ninsecure = true\n', 'a.test/x')).toEqual(['a.test/x!'])
  })

  const mirrored = (extra: string, each: readonly string[]): string =>
    `[[registry]]\nprefix = "docker.io"\nlocation = "hub.test"\n${extra}\n${each
      .map((use, index) => `[[registry.mirror]]\nlocation = "m${index}.test/d"\n${use}\n`)
      .join('')}`

  test('mirrors come first, in their order, with their own security', () => {
    expect(endpoints(mirrored('', ['insecure = true', '']), 'busybox')).toEqual([
      '~m0.test/d/library/busybox!',
      '~m1.test/d/library/busybox',
      'hub.test/library/busybox',
    ])
  })

  test('mirrors for digests are not asked for tags', () => {
    const toml = mirrored('mirror-by-digest-only = true', [''])
    expect(endpoints(toml, 'a/b:1')).toEqual(['hub.test/a/b'])
    expect(endpoints(toml, `a/b@sha256:${hex}`)).toEqual(['~m0.test/d/a/b', 'hub.test/a/b'])
    expect(endpoints(toml, `a/b:1@sha256:${hex}`)).toHaveLength(2)
  })

  test('each mirror may say what it is for', () => {
    const uses = ['all', 'digest-only', 'tag-only'].map((use) => `pull-from-mirror = "${use}"`)
    const hosts = (reference: string): readonly string[] =>
      endpoints(mirrored('', uses), reference).map((text) => text.split('/')[0] ?? '')
    expect(hosts('a/b:1')).toEqual(['~m0.test', '~m2.test', 'hub.test'])
    expect(hosts(`a/b@sha256:${hex}`)).toEqual(['~m0.test', '~m1.test', 'hub.test'])
  })

  test('images are pushed to the location, never to a mirror', () => {
    const rules = table(mirrored('insecure = true', ['']))
    expect(destinationOf(rules, parseReference('a/b:1'))).toEqual({
      ...{ host: 'hub.test', repository: 'a/b', insecure: true, mirror: false },
      named: 'docker.io',
    })
  })

  test('a location that makes no name is told with its rule', () => {
    const toml = `[[registry]]\nprefix = "a.test/x"\nlocation = "b.test"\n`
    expect(() => endpoints(toml, 'a.test/x:1')).toThrow(
      /registries\.toml \(a\.test\/x\) makes a\.test\/x:1 into/,
    )
  })
})

describe('blocked', () => {
  const toml = `
[[registry]]
location = "bad.test"
blocked = true
[[registry]]
location = "half.test/team"
blocked = true
[[registry]]
prefix = "*.evil.test"
blocked = true
`
  test.each([
    'bad.test/a',
    'BAD.test/a',
    'bad.test:443/a',
    'half.test/team/a',
    'half.test/team/a/b',
    'x.evil.test/a',
  ])('%s is refused for reading, writing and logging in', (reference) => {
    const parsed = withDefaultTag(parseReference(reference))
    const denied = expect.objectContaining({
      code: 'ISB_REGISTRY_DENIED',
      message: expect.stringContaining('is blocked by registries.toml'),
    })
    expect(() => endpointsOf(table(toml), parsed)).toThrow(denied)
    expect(() => destinationOf(table(toml), parsed)).toThrow(denied)
    expect(() => serverOf(table(toml), parsed.domain, parsed.path)).toThrow(denied)
  })

  test.each(['good.test/bad.test/a', 'half.test/teams/a', 'half.test/a', 'evil.test/a'])(
    '%s is not',
    (reference) => {
      expect(endpoints(toml, reference)).toHaveLength(1)
    },
  )

  test('of version 1 lets no part through that is only listed as insecure', () => {
    const lists = (extra: string): string =>
      `[registries.block]\nregistries = ["bad.test"]\n[registries.insecure]\nregistries = ["bad.test/ns", "ok.test"]\n${extra}`
    expect(() => endpoints(lists(''), 'bad.test/ns/a')).toThrow('is blocked')
    expect(endpoints(lists(''), 'ok.test:5000/a')).toEqual(['ok.test:5000/a!'])
  })
})

describe('what a name may mean', () => {
  const candidates = (toml: string, text: string): readonly string[] =>
    candidatesOf(table(toml), text).map(formatCanonical)
  const search =
    'unqualified-search-registries = ["one.test", "docker.io", "bad.test"]\n[[registry]]\nlocation = "bad.test"\nblocked = true\n'

  test('with a registry, only itself', () => {
    expect(candidates(search, 'quay.io/a/b:1')).toEqual(['quay.io/a/b:1'])
    expect(candidates(search, 'localhost/a')).toEqual(['localhost/a:latest'])
    expect(candidates(search, 'docker.io/busybox')).toEqual(['docker.io/library/busybox:latest'])
    expect(candidates(search, 'HOST/a')).toEqual(['HOST/a:latest'])
  })

  test('else localhost and the search registries that are not blocked', () => {
    expect(candidates(search, 'busybox:1')).toEqual([
      ...['localhost/busybox:1', 'one.test/busybox:1', 'docker.io/library/busybox:1'],
    ])
    expect(candidates(search, `team/a@sha256:${hex}`)).toEqual([
      ...[
        `localhost/team/a@sha256:${hex}`,
        `one.test/team/a@sha256:${hex}`,
        `docker.io/team/a@sha256:${hex}`,
      ],
    ])
    expect(candidates('', 'a')).toEqual(['localhost/a:latest'])
  })

  test('an alias takes the place of the search', () => {
    const toml = `${search}[aliases]\n"team/a" = "two.test/x/y"\n`
    expect(candidates(toml, 'team/a:1')).toEqual(['localhost/team/a:1', 'two.test/x/y:1'])
    expect(candidates(toml, 'team/b')).toHaveLength(3)
  })

  test.each(['', 'UPPER', 'a b', '../a', 'a:', `${'a/'.repeat(200)}a`, hex])('%j means nothing', (text) => {
    expect(() => candidates(search, text)).toThrow(expect.objectContaining({ code: 'ISB_REFERENCE_INVALID' }))
  })
})

test('the lists that info shows', () => {
  const v1 =
    '[registries.search]\nregistries = ["a.test"]\n[registries.insecure]\nregistries = ["b.test"]\n[registries.block]\nregistries = ["c.test"]\n'
  expect(listsOf(table(v1))).toEqual({ search: ['a.test'], insecure: ['b.test'], block: ['c.test'] })
})

test('a registry to log in to is as insecure as its rule says, and not rewritten', () => {
  const rules = table('[[registry]]\nprefix = "a.test/ns"\nlocation = "b.test"\ninsecure = true\n')
  expect(serverOf(rules, 'A.test', 'ns')).toEqual({
    ...{ host: 'a.test', repository: 'ns', insecure: true, mirror: false },
  })
  expect(serverOf(rules, 'a.test', '').insecure).toBe(false)
})

test('a registry written in capital letters stays a registry', () => {
  const reference = parseReference('CORP/app:1')
  const corp = { host: 'corp', repository: 'app', insecure: false, mirror: false }
  expect(endpointsOf(table(''), reference)).toEqual([corp])
  expect(destinationOf(table(''), reference)).toEqual(corp)
})
