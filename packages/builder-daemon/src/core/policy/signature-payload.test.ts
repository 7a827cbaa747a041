import { expect, test } from 'vitest'
import { decodePayload } from './signature-payload.js'

const digest = `sha256:${'a'.repeat(64)}`

function payload(
  changes: Record<string, unknown> = {},
  optional: unknown = { creator: 'x', timestamp: 1 },
): string {
  return JSON.stringify({
    critical: {
      type: 'atomic container signature',
      image: { 'docker-manifest-digest': digest },
      identity: { 'docker-reference': 'quay.io/a:1' },
      ...changes,
    },
    optional,
  })
}

const decode = (text: string, kind: 'signedBy' | 'sigstoreSigned' = 'signedBy') =>
  decodePayload(Buffer.from(text), kind)

test('digest and name are read, what is optional is not', () => {
  const stated = { digest, reference: 'quay.io/a:1' }
  expect(decode(payload())).toEqual(stated)
  expect(decode(payload({}, null))).toEqual(stated)
  const cosign = { type: 'cosign container image signature' }
  expect(decode(payload(cosign, undefined), 'sigstoreSigned')).toEqual(stated)
})

test.each([
  [payload({ type: 'cosign container image signature' }), 'its type is "cosign container image signature"'],
  [payload({ type: 5 }), 'a string is expected'],
  [payload({ more: 1 }), 'unknown key "more"'],
  [payload({ image: {} }), '"docker-manifest-digest" is missing'],
  [payload({ image: { 'docker-manifest-digest': digest, x: 1 } }), 'unknown key "x"'],
  [payload({ image: { 'docker-manifest-digest': 'md5:1' } }), 'its digest is not a sha256 digest'],
  [
    payload({ image: { 'docker-manifest-digest': digest.toUpperCase() } }),
    'its digest is not a sha256 digest',
  ],
  [payload({ identity: [] }), 'an object is expected'],
  [payload().replace('"critical"', '"critical":{},"critical"'), 'key "critical" is there twice'],
  [payload().replace('{"docker-reference"', '{"docker-reference":"x","docker-reference"'), 'is there twice'],
  [payload().replace('"optional"', '"other"'), 'unknown key "other"'],
  ['{}', '"critical" is missing'],
  ['[]', 'an object is expected'],
  ['', 'ends early'],
])('%s is refused', (text, reason) => {
  expect(() => decode(text)).toThrow(reason)
})

test('a payload that is not UTF-8 is refused', () => {
  expect(() => decodePayload(Buffer.from([0x7b, 0xff, 0x7d]), 'signedBy')).toThrow('is not UTF-8')
})
