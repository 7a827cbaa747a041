import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { describe, expect, test } from 'vitest'
import { decodeRegistries } from './registries-file.js'

const decode = (text: string) => decodeRegistries(text, '/etc/r.toml')

test('everything containers-registries.conf(5) names is accepted', () => {
  const { table, warnings } = decode(`
unqualified-search-registries = ["Docker.io", "quay.io:5000/", "quay.io:5000"]
credential-helpers = ["containers-auth.json"]
short-name-mode = "enforcing"
[[registry]]
prefix = "Quay.io/team"
location = "r.test:5000/x/"
insecure = true
blocked = false
mirror-by-digest-only = true
[[registry.mirror]]
location = "m.test"
insecure = true
[aliases]
"fedora" = "registry.fedoraproject.org/fedora"
gone = ""
`)
  expect(warnings).toEqual([])
  expect(table.search).toEqual(['docker.io', 'quay.io:5000'])
  expect(table.rules).toEqual([
    {
      ...{ prefix: 'quay.io/team', location: 'r.test:5000/x', insecure: true, blocked: false },
      mirrors: [{ location: 'm.test', insecure: true, use: 'digest-only' }],
    },
  ])
  expect([...table.aliases.keys()]).toEqual(['fedora'])
})

test('unknown keys and settings without effect are warned of, with their lines', () => {
  const { warnings } = decode(
    'credential-helpers = ["pass"]\nsome = 1\n[[registry]]\nlocation = "a.test"\n\nsecure = true\n[[registry.mirror]]\nlocation = "b.test"\nweight = 1\n[[registry]]\nlocation = "a.test"\n',
  )
  expect(warnings).toEqual([
    '/etc/r.toml:2: `some` is not known, it has no effect',
    '/etc/r.toml:1: `credential-helpers` has no effect; use `credHelpers` of auth.json',
    '/etc/r.toml:6: `registry.secure` is not known, it has no effect',
    '/etc/r.toml:9: `registry.mirror.weight` is not known, it has no effect',
    '/etc/r.toml:10: `registry.prefix` "a.test" is there already, the first one counts',
  ])
  expect(decode('[registries.search]\nregistries = []\nother = 1\n[registries.x]\n').warnings).toEqual([
    '/etc/r.toml:4: `registries.x` is not known, it has no effect',
    '/etc/r.toml:3: `registries.search.other` is not known, it has no effect',
  ])
})

const rule = (lines: string): string => `[[registry]]\nlocation = "ok.test"\n[[registry]]\n${lines}\n`

describe.each([
  [rule('insecure = true'), ':3: `registry.location` is missing'],
  [
    rule('prefix = "a.test"'),
    ':4: `registry.prefix` needs a `location` unless it is of the form *.example.com',
  ],
  [rule('location = "https://a.test"'), ':4: `registry.location` has "https://a.test": URI schemes are not'],
  [
    rule('location = "a.test/x:1"'),
    ':4: `registry.location` has "a.test/x:1", expected host[:port][/namespace]',
  ],
  [rule('location = "*.a.test"'), ':4: `registry.location` has "*.a.test", expected'],
  [rule('location = "../x"'), ':4: `registry.location` has "../x", expected'],
  [rule('prefix = "*.a.test/x"\nlocation = "b.test"'), ':4: `registry.prefix` has "*.a.test/x", expected'],
  [rule('prefix = "a*.test"\nlocation = "b.test"'), ':4: `registry.prefix` has "a*.test", expected'],
  [rule('location = 5'), ':4: `registry.location` must be a string'],
  [rule('location = "a.test"\nblocked = "yes"'), ':5: `registry.blocked` must be true or false'],
  [rule('location = "a.test"\npull-from-mirror = "all"'), ':5: `registry.pull-from-mirror` belongs to'],
  [
    rule('location = "a.test"\n[[registry.mirror]]\ninsecure = true'),
    ':5: `registry.mirror.location` is missing',
  ],
  [
    rule('location = "a.test"\n[[registry.mirror]]\nlocation = "b.test"\npull-from-mirror = "some"'),
    ':7: `registry.mirror.pull-from-mirror` is "some", expected one of all, digest-only, tag-only',
  ],
  [
    rule(
      'location = "a.test"\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = "b.test"\npull-from-mirror = "all"',
    ),
    ':8: `registry.mirror.pull-from-mirror` and `mirror-by-digest-only` of its registry exclude',
  ],
  [
    rule('prefix = "x.test"\nlocation = "ok.test"\nblocked = true'),
    ':6: `registry.blocked` of registry "ok.test" contradicts',
  ],
  [
    rule('prefix = "x.test"\nlocation = "ok.test"\ninsecure = true'),
    ':6: `registry.insecure` of registry "ok.test" contra',
  ],
  [
    'unqualified-search-registries = ["a.test/ns"]',
    ':1: `unqualified-search-registries` has "a.test/ns", expected a',
  ],
  [
    'unqualified-search-registries = [""]',
    ':1: `unqualified-search-registries` has "", expected a registry host',
  ],
  ['short-name-mode = "maybe"', ':1: `short-name-mode` is "maybe", expected one of'],
  [
    '[aliases]\n"a.test/x" = "b.test/x"',
    ':2: `aliases.a.test/x` is no name without registry, tag and digest',
  ],
  ['[aliases]\n"a:1" = "b.test/x"', ':2: `aliases.a:1` is no name without'],
  ['[aliases]\na = "b"', ':2: `aliases.a` must be a full name'],
  ['[aliases]\na = "b.test/x:1"', ':2: `aliases.a` must be a full name'],
  [
    '[registries.search]\nregistries = ["http://a.test"]',
    ':2: `registries.search.registries` has "http://a.test": URI',
  ],
  ['[registries.search]\nregistries = []\n[aliases]', ': mixing sysregistry v1/v2 is not supported'],
  [
    'short-name-mode = "disabled"\n[registries.block]\nregistries = []',
    ': mixing sysregistry v1/v2 is not supported',
  ],
  ['registry = "x"', ':1: `registry` must be a list of tables'],
])('%j', (text, message) => {
  test('is refused by file, line and key', () => {
    expect(() => decode(text)).toThrow(expect.objectContaining({ code: 'ISB_CONFIG_INVALID' }))
    expect(() => decode(text)).toThrow(`/etc/r.toml${message}`)
  })
})

/** mulberry32 */
function generator(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296
  }
}

test('any text is either understood or refused as a configuration', () => {
  const pieces = [
    ...[
      '[[registry]]\n',
      '[[registry.mirror]]\n',
      '[registries.search]\n',
      '[aliases]\n',
      'prefix = ',
      'location = ',
    ],
    ...[
      '"*.a.test"\n',
      '"a.test/x"\n',
      '"[::1]:5"\n',
      '"',
      '\n',
      'insecure = true\n',
      'blocked = 1\n',
      'a = {}\n',
    ],
    ...[
      'registries = ["a", 1]\n',
      'pull-from-mirror = "all"\n',
      '__proto__ = 1\n',
      '"constructor" = "x"\n',
      '=',
      '[',
      ']',
    ],
  ]
  const until = Date.now() + (Number(process.env['ISULA_FUZZ_SECONDS'] ?? 5) * 1000) / 5
  for (let seed = 1; Date.now() < until; seed += 1) {
    const random = generator(seed)
    const length = Math.floor(random() * 12)
    const text = Array.from({ length }, () => pieces[Math.floor(random() * pieces.length)]).join('')
    try {
      decode(text)
    } catch (error) {
      if (!isBuilderError(error, 'ISB_CONFIG_INVALID'))
        throw new Error(`seed ${seed}: ${text}`, { cause: error })
    }
  }
})
