import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { describe, expect, test } from 'vitest'
import { processorTime } from '../../../../../test/support/processor-time.js'
import { decodePolicy } from './policy-document.js'

const decode = (value: unknown) =>
  decodePolicy(typeof value === 'string' ? value : JSON.stringify(value), '/etc/policy.json')
const one = (requirement: unknown) => decode({ default: [requirement] }).default[0]
const key = Buffer.from('key').toString('base64')

test('everything containers-policy.json(5) names is accepted', () => {
  const policy = decode({
    default: [{ type: 'reject' }],
    transports: {
      docker: {
        '': [{ type: 'insecureAcceptAnything' }],
        'quay.io': [{ type: 'signedBy', keyType: 'GPGKeys', keyPath: '/k' }],
        '*.example.com': [{ type: 'sigstoreSigned', keyData: key }, { type: 'reject' }],
        'h:5000/a/b:tag': [
          {
            type: 'signedBy',
            keyType: 'GPGKeys',
            keyPaths: ['/a', '/b'],
            signedIdentity: { type: 'matchExact' },
          },
        ],
      },
      'docker-daemon': { '': [{ type: 'insecureAcceptAnything' }] },
      'oci-archive': { '/srv/images': [{ type: 'insecureAcceptAnything' }] },
      'some-day': { anything: [{ type: 'reject' }] },
    },
  })
  expect(policy.default).toEqual([{ type: 'reject' }])
  expect([...policy.transports.keys()]).toEqual(['docker', 'docker-daemon', 'oci-archive', 'some-day'])
  expect(policy.transports.get('docker')?.get('quay.io')).toEqual([
    {
      ...{ type: 'signedBy', keys: { kind: 'files', paths: ['/k'] } },
      identity: { type: 'matchRepoDigestOrExact' },
    },
  ])
  expect(policy.transports.get('docker')?.get('*.example.com')?.[0]).toMatchObject({
    keys: { kind: 'data', blocks: [Buffer.from('key')] },
  })
})

test.each([
  [{ type: 'matchExact' }, { type: 'matchExact' }],
  [{ type: 'matchRepository' }, { type: 'matchRepository' }],
  [
    { type: 'exactReference', dockerReference: 'busybox:1' },
    { type: 'exactReference', reference: { domain: 'docker.io', path: 'library/busybox', tag: '1' } },
  ],
  [
    { type: 'exactRepository', dockerRepository: 'quay.io/a' },
    { type: 'exactRepository', reference: { domain: 'quay.io', path: 'a' } },
  ],
  [
    { type: 'remapIdentity', prefix: 'h:5000/a', signedPrefix: 'quay.io' },
    { type: 'remapIdentity', prefix: 'h:5000/a', signedPrefix: 'quay.io' },
  ],
])('identity %j is understood', (written, identity) => {
  const requirement = { type: 'sigstoreSigned', keyPath: '/k', signedIdentity: written }
  expect(one(requirement)).toMatchObject({ identity })
})

const signed = { type: 'signedBy', keyType: 'GPGKeys' }
const identity = (value: unknown) => ({ default: [{ ...signed, keyPath: '/k', signedIdentity: value }] })

describe('refused by file and line:', () => {
  test.each([
    ['', ':1: ends early'],
    ['{"default":\n[}', ':2: unexpected "}"'],
    ['{"default": [{"type": "reject"}]} x', ':1: unexpected "x"'],
    ['{"default": [{"type": "reject",}]}', ':1: unexpected "}"'],
    ['{"default": [{"type": "rej\nect"}]}', ':1: a string is malformed or does not end'],
    [
      '{\n"default": [{"type": "reject"}],\n"default": [{"type": "insecureAcceptAnything"}]}',
      ':3: key "default" is there twice',
    ],
    ['{"default": [{"type": "reject", "type": "insecureAcceptAnything"}]}', ':1: key "type" is there twice'],
    [`{"default": ${'['.repeat(100)}${']'.repeat(100)}}`, ':1: nested deeper than 64'],
    ['\uFEFF{"default": [{"type": "reject"}]}', ':1: unexpected'],
    [{}, ':1: `default` must be a list'],
    [{ default: [] }, ':1: `default` must not be an empty list'],
    [{ default: null }, ':1: `default` must be a list'],
    [{ default: [{ type: 'reject' }], transport: {} }, ':1: unknown key "transport" in the policy'],
    [
      { default: [{ type: 'reject' }], transports: { docker: { 'quay.io': [] } } },
      ':1: scope "quay.io" must not be an',
    ],
    [
      { default: [{ type: 'reject' }], transports: { docker: [] } },
      ':1: `transports.docker` must be an object',
    ],
    [
      { default: [{ type: 'reject' }], transports: { docker: { 'https://a': [{ type: 'reject' }] } } },
      'neither a part',
    ],
    [
      { default: [{ type: 'reject' }], transports: { docker: { 'a.*.b': [{ type: 'reject' }] } } },
      'neither a part',
    ],
    [
      { default: [{ type: 'reject' }], transports: { 'docker-archive': { x: [{ type: 'reject' }] } } },
      'has no scope',
    ],
    [
      { default: [{ type: 'reject' }], transports: { 'oci-archive': { 'x/../y': [{ type: 'reject' }] } } },
      'no absolute',
    ],
    [
      { default: [{ type: 'reject' }], transports: { 'oci-archive': { '/x/../y': [{ type: 'reject' }] } } },
      'no absolute',
    ],
    [{ default: [{ type: 'accept' }] }, ':1: unknown policy requirement type "accept"'],
    [{ default: [{}] }, ':1: `type` is missing'],
    [{ default: ['reject'] }, ':1: a requirement must be an object'],
    [{ default: [{ type: 'reject', but: 1 }] }, ':1: unknown key "but" in reject'],
    [{ default: [{ ...signed }] }, 'exactly one of keyPath, keyPaths, keyData'],
    [{ default: [{ ...signed, keyPath: '/k', keyData: key }] }, 'exactly one of'],
    [
      { default: [{ ...signed, keyType: 'X509Certificates', keyPath: '/k' }] },
      'keyType "X509Certificates" is not supp',
    ],
    [{ default: [{ ...signed, keyPath: 'relative' }] }, '`keyPath` must be absolute'],
    [{ default: [{ ...signed, keyPath: 5 }] }, '`keyPath` must be a string'],
    [{ default: [{ ...signed, keyPaths: [] }] }, '`keyPaths` must not be empty'],
    [{ default: [{ ...signed, keyPaths: '/k' }] }, '`keyPaths` must be a list of strings'],
    [{ default: [{ ...signed, keyData: '%%%' }] }, '`keyData` is not base64'],
    [{ default: [{ ...signed, keyData: '' }] }, '`keyData` is not base64'],
    [{ default: [{ ...signed, keyDatas: [key] }] }, 'unknown key "keyDatas" in signedBy'],
    [
      { default: [{ type: 'sigstoreSigned', fulcio: {} }] },
      '`fulcio` is not supported: signatures without a key',
    ],
    [
      { default: [{ type: 'sigstoreSigned', keyPath: '/k', rekorPublicKeyData: key }] },
      '`rekorPublicKeyData` is not supp',
    ],
    [identity({ type: 'matchAnything' }), 'unknown signedIdentity type "matchAnything"'],
    [identity({ type: 'exactReference', dockerReference: 'busybox' }), 'has neither tag nor digest'],
    [identity({ type: 'exactRepository', dockerRepository: 'A' }), '`dockerRepository`: invalid reference'],
    [identity({ type: 'remapIdentity', prefix: '*.a', signedPrefix: 'b' }), '`prefix` "*.a" is not host'],
    [identity({ type: 'matchExact', also: 1 }), 'unknown key "also" in matchExact'],
    [identity(null), '`signedIdentity` must be an object'],
  ])('%j', (value, message) => {
    expect(() => decode(value)).toThrow(expect.objectContaining({ code: 'ISB_CONFIG_INVALID' }))
    expect(() => decode(value)).toThrow(message)
    expect(() => decode(value)).toThrow(/^\/etc\/policy\.json:\d+: /)
  })
})

test('any change of a policy is either understood or refused as a configuration', () => {
  const text = JSON.stringify({
    default: [{ type: 'reject' }],
    transports: {
      docker: { 'quay.io': [{ ...signed, keyData: key, signedIdentity: { type: 'matchExact' } }] },
    },
  })
  const until = processorTime() + (Number(process.env['ISULA_FUZZ_SECONDS'] ?? 5) * 1000) / 5
  let state = 1
  const random = (limit: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 4294967296) * limit)
  }
  const bytes = [
    '"',
    '{',
    '}',
    '[',
    ']',
    ',',
    ':',
    '\\',
    '\0',
    'x',
    '\n',
    '\\u0041',
    '1e999',
    'null',
    '\ud800',
  ]
  while (processorTime() < until) {
    const at = random(text.length)
    const changed = text.slice(0, at) + (bytes[random(bytes.length)] ?? '') + text.slice(at + random(3))
    try {
      const policy = decode(changed)
      expect(policy.default.length).toBeGreaterThan(0)
      // What Go or JavaScript would read must not differ from what was decided by.
      expect(() => JSON.parse(changed)).not.toThrow()
    } catch (error) {
      if (!isBuilderError(error, 'ISB_CONFIG_INVALID')) throw new Error(changed, { cause: error })
    }
  }
})
