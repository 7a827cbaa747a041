import { expect, test } from 'vitest'
import { processorTime } from '../../../../../test/support/processor-time.js'
import { parseChallenges } from '../auth/challenge.js'
import { challengedScopes, covers, mergeScopes } from '../auth/scopes.js'
import { readToken } from '../auth/token-answer.js'
import { registryError, shown } from './error-text.js'
import { checkedHost } from './hosts.js'
import { nextPage, parseLinks } from './link.js'
import { proxyRules } from './proxy.js'
import { retryAfter } from './retry-after.js'
import { mayName, zoneOf } from './zones.js'

test.each([
  ['Basic realm="r"', [['basic', { realm: 'r' }]]],
  [
    'Bearer realm="https://a/t",service="s",scope="repository:x:pull,push"',
    [['bearer', { realm: 'https://a/t', service: 's', scope: 'repository:x:pull,push' }]],
  ],
  [
    'Bearer realm="a", error="insufficient_scope", Basic realm="b"',
    [
      ['bearer', { realm: 'a', error: 'insufficient_scope' }],
      ['basic', { realm: 'b' }],
    ],
  ],
  ['BEARER REALM=a , , Service = "q\\"uo\\\\te"', [['bearer', { realm: 'a', service: 'q"uo\\te' }]]],
  [
    'Negotiate, NTLM, Basic',
    [
      ['negotiate', {}],
      ['ntlm', {}],
      ['basic', {}],
    ],
  ],
  [
    'Negotiate YII=, Basic realm=""',
    [
      ['negotiate', {}],
      ['basic', { realm: '' }],
    ],
  ],
  ['Bearer realm="first",realm="second"', [['bearer', { realm: 'first' }]]],
  ['Bearer realm=https://a/t?x=y,service=s', [['bearer', { realm: 'https://a/t?x=y', service: 's' }]]],
  ['Bearer realm="unterminated, service="s"', [['bearer', { realm: 'unterminated, service=' }]]],
  ['realm="of nobody"', []],
  ['', []],
  [',,;;@@,Basic', [['basic', {}]]],
])('the challenges of %j', (header, expected) => {
  const found = parseChallenges(header).map(({ scheme, parameters }) => [scheme, { ...parameters }])
  expect(found).toEqual(expected)
})

test('a challenge cannot reach a prototype', () => {
  const [challenge] = parseChallenges('Bearer __proto__="x", constructor="y", realm="z"')
  expect(Object.keys(challenge?.parameters ?? {})).toEqual(['__proto__', 'constructor', 'realm'])
  expect(({} as { x?: string }).x).toBeUndefined()
})

test.each([
  ['120', 120_000],
  [' 1 ', 1000],
  ['0', undefined],
  ['-1', undefined],
  ['1.5', undefined],
  ['Wed, 21 Oct 2015 07:28:10 GMT', 10_000],
  ['Wednesday, 21-Oct-15 07:28:10 GMT', 10_000],
  ['Wed Oct 21 07:28:10 2015', 10_000],
  ['Wed, 21 Oct 2015 07:28:00 GMT', undefined],
  ['Wed, 21 Oct 2014 07:28:10 GMT', undefined],
  ['2015', 2_015_000],
  ['2099-01-01', undefined],
  ['', undefined],
  [undefined, undefined],
  ['9'.repeat(400), Number.POSITIVE_INFINITY],
])('Retry-After %j', (header, expected) => {
  expect(retryAfter(header, Date.UTC(2015, 9, 21, 7, 28, 0))).toBe(expected)
})

test('links are read with their relations, and the next page found', () => {
  expect(parseLinks('</a?n=1&last=b>; rel="next last"; title="x, <y>", <b>;rel=prev , <c>')).toEqual([
    { target: '/a?n=1&last=b', relations: ['next', 'last'] },
    { target: 'b', relations: ['prev'] },
    { target: 'c', relations: [] },
  ])
  const base = new URL('https://r.example/v2/x/tags/list')
  expect(nextPage('</v2/x/tags/list?last=b>; rel="next"', base)?.href).toBe(
    'https://r.example/v2/x/tags/list?last=b',
  )
  expect(nextPage('<http://other/>; rel=NEXT', base)?.href).toBe('http://other/')
  expect(nextPage('<a>; rel=prev; rel=next', base)).toBeUndefined()
  expect(nextPage('<http://[::>; rel=next', base)).toBeUndefined()
  expect(nextPage(undefined, base)).toBeUndefined()
})

test.each([
  ['8.8.8.8', 'public'],
  ['2a00::1', 'public'],
  ['10.1.1.1', 'private'],
  ['172.31.0.1', 'private'],
  ['172.32.0.1', 'public'],
  ['192.168.1.1', 'private'],
  ['100.100.100.201', 'private'],
  ['fd00:ec2::255', 'private'],
  ['198.18.0.1', 'private'],
  ['198.19.255.255', 'private'],
  ['198.20.0.0', 'public'],
  ['64:ff9b:1::a00:1', 'private'],
  ['127.1.1.1', 'loopback'],
  ['::1', 'loopback'],
  ['::ffff:127.0.0.1', 'loopback'],
  ['64:ff9b::7f00:1', 'loopback'],
  ['2002:7f00:1::', 'loopback'],
  ['169.254.169.254', 'link-local'],
  ['100.100.100.200', 'link-local'],
  ['168.63.129.16', 'link-local'],
  ['fd00:ec2::254', 'link-local'],
  ['::ffff:169.254.169.254', 'link-local'],
  ['fe80::1%eth0', 'link-local'],
  ['0.0.0.0', 'unusable'],
  ['::', 'unusable'],
  ['255.255.255.255', 'unusable'],
  ['224.0.0.1', 'unusable'],
  ['nonsense', 'unusable'],
])('%s is %s', (address, zone) => {
  expect(zoneOf(address)).toBe(zone)
})

test('a registry names what is as far away as itself, or farther', () => {
  expect(mayName('public', 'private')).toBe(false)
  expect(mayName('private', 'public')).toBe(true)
  expect(mayName('private', 'loopback')).toBe(false)
  expect(mayName('loopback', 'link-local')).toBe(false)
  expect(mayName('link-local', 'unusable')).toBe(false)
})

test('scopes are one set whatever their order', () => {
  expect(mergeScopes(['repository:b:push,pull', 'repository:a:pull', 'repository:b:delete'])).toEqual([
    'repository:a:pull',
    'repository:b:pull,push,delete',
  ])
  expect(covers(['repository:a:pull,push'], ['repository:a:pull'])).toBe(true)
  expect(covers(['repository:a:pull'], ['repository:a:push'])).toBe(false)
  expect(challengedScopes('a:b:c  registry:catalog:* \u0001x "')).toEqual(['a:b:c', 'registry:catalog:*'])
  expect(challengedScopes(undefined)).toEqual([])
})

test.each([
  [{ token: 't' }, 54],
  [{ access_token: 't', expires_in: 300 }, 290],
  [{ token: '', access_token: 't', expires_in: 0 }, 54],
  [{ token: 't', expires_in: -5 }, 54],
  [{ token: 't', expires_in: 1e300 }, 3590],
  [{ token: 't', expires_in: '300' }, 54],
  [{ token: 't', expires_in: 300, issued_at: '2020-01-01T00:00:00Z' }, 240 - 10 + 0],
  [{ token: 't', expires_in: 300, issued_at: 'yesterday' }, 290],
  [{ token: 't', expires_in: 300, issued_at: '2021-01-01T00:00:00Z' }, 290],
  [{ token: 't', expires_in: 60, issued_at: '2020-01-01T00:00:00Z' }, 0],
  // A time that cannot be true says nothing.
  [{ token: 't', expires_in: 30, issued_at: '2019-01-01T00:00:00Z' }, 27],
  [{ token: 't', expires_in: 300, issued_at: '0001-01-01T00:00:00Z' }, 290],
  [{ token: 't', expires_in: 1e9, issued_at: '2019-12-30T00:00:00Z' }, 3590],
])('the token of %j is used for %i seconds', (document, seconds) => {
  const token = readToken(JSON.stringify(document), 'Wed, 01 Jan 2020 00:01:00 GMT')
  expect(token).toEqual({ value: 't', lifetime: seconds * 1000 })
})

test.each(['', 'null', '[]', '{}', '{"token":1}', '{"token":"a b"}', '{"token":"a\\r\\nx: y"}', '<html>'])(
  '%j is no token',
  (body) => {
    expect(readToken(body, undefined)).toBeUndefined()
  },
)

test('what registries say is shown without controls and credentials', () => {
  expect(registryError('{"errors":[{"code":"DENIED","message":"no"}]}')).toEqual({
    code: 'DENIED',
    message: 'no',
  })
  expect(registryError('{"error":"invalid_grant","error_description":"no"}')).toEqual({
    code: 'invalid_grant',
    message: 'no',
  })
  expect(registryError('{"details":"incorrect username or password"}')).toEqual({
    code: '',
    message: 'incorrect username or password',
  })
  for (const none of ['', 'null', '[]', '{"errors":[]}', '{"errors":[null]}', '<html>'])
    expect(registryError(none)).toBeUndefined()
  expect(shown('a\u001b[2J\r\n\u202eb\u2028 https://user:geheim@host/')).toBe('a [2J b https://***@host/')
  expect([...shown('😀'.repeat(300))]).toHaveLength(201)
})

const seconds = Number(process.env['ISULA_FUZZ_SECONDS'] ?? '5')

test(
  'readers of what strangers write end, and keep their promises, for any text',
  () => {
    const pieces = [
      'Bearer',
      'Basic',
      ' ',
      ',',
      '=',
      '"',
      '\\',
      'realm',
      'scope',
      ';',
      '<',
      '>',
      'rel',
      'next',
      ':',
      '/',
      '\t',
      '[',
      ']',
      '1',
      'Wed, 21 Oct',
      '\u0000',
      'é',
      '{',
      '}',
      'token',
      '*.',
      '.',
      '%',
    ]
    let state = 20_230_517
    const random = (below: number) => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
      return Math.floor((state / 2 ** 32) * below)
    }
    const end = processorTime() + seconds * 1000
    let rounds = 0
    do {
      const seed = state
      const text = Array.from({ length: random(60) }, () => pieces[random(pieces.length)]).join('')
      try {
        for (const { scheme, parameters } of parseChallenges(text)) {
          expect(scheme).toMatch(/^[!-~]+$/)
          for (const name of Object.keys(parameters)) expect(name).toBe(name.toLowerCase())
        }
        for (const { target } of parseLinks(text)) expect(text).toContain(`<${target}>`)
        nextPage(text, new URL('https://r.example/'))
        const wait = retryAfter(text, 0)
        expect(wait === undefined || wait > 0).toBe(true)
        registryError(text)
        readToken(text, text)
        expect(mergeScopes(mergeScopes(challengedScopes(text)))).toEqual(mergeScopes(challengedScopes(text)))
        proxyRules({ https_proxy: 'p:1', no_proxy: text })(new URL('https://r.example/'))
        try {
          expect(checkedHost(text)).not.toMatch(/[/\\]|\.\./)
        } catch (error) {
          expect(error).toMatchObject({ code: 'ISB_REFERENCE_INVALID' })
        }
      } catch (error) {
        throw new Error(`seed ${seed}: ${JSON.stringify(text)}`, { cause: error })
      }
      rounds++
    } while (processorTime() < end)
    expect(rounds).toBeGreaterThan(100)
  },
  // Of processor time; on the clock it may be many times that.
  seconds * 30_000 + 30_000,
)

test('long hostile headers are read in linear time', () => {
  const before = processorTime()
  for (const text of [
    'a="'.repeat(5000),
    '\\'.repeat(16_000),
    'a '.repeat(8000),
    '<'.repeat(16_000),
    ' ,'.repeat(8000),
    `<a>${'; x'.repeat(5000)}`,
    `"${'\\"'.repeat(8000)}`,
  ]) {
    parseChallenges(text)
    parseChallenges(`Bearer realm=${text}`)
    parseLinks(text)
    parseLinks(`<a>;rel="${text}`)
    retryAfter(text, 0)
  }
  expect(processorTime() - before).toBeLessThan(2000)
})
