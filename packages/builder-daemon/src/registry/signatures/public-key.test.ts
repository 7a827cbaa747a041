import { generateKeyPairSync, type KeyObject, sign } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { verifyWithPublicKeys } from './public-key.js'

const payload = Buffer.from('{"critical":{}}')
const pem = (key: KeyObject): Buffer => Buffer.from(key.export({ type: 'spki', format: 'pem' }))
const pairs = {
  p256: generateKeyPairSync('ec', { namedCurve: 'P-256' }),
  p384: generateKeyPairSync('ec', { namedCurve: 'P-384' }),
  rsa: generateKeyPairSync('rsa', { modulusLength: 2048 }),
  ed25519: generateKeyPairSync('ed25519'),
}
const other = generateKeyPairSync('ec', { namedCurve: 'P-256' })

describe.each(Object.entries(pairs))('%s', (name, { publicKey, privateKey }) => {
  const signature = sign(name === 'ed25519' ? null : 'sha256', payload, privateKey)

  test('a signature is good for the payload and the key alone', () => {
    expect(verifyWithPublicKeys([pem(publicKey)], payload, signature)).toEqual({ kind: 'verified', payload })
    expect(verifyWithPublicKeys([pem(other.publicKey), pem(publicKey)], payload, signature).kind).toBe(
      'verified',
    )
    expect(verifyWithPublicKeys([pem(other.publicKey)], payload, signature).kind).toBe('refused')
    expect(verifyWithPublicKeys([pem(publicKey)], Buffer.from('{}'), signature).kind).toBe('refused')
  })

  test('every changed, cut or empty signature is refused', () => {
    for (let at = 0; at < signature.length; at += 1) {
      const changed = Buffer.from(signature)
      changed[at] = (changed[at] ?? 0) ^ 0x10
      expect(verifyWithPublicKeys([pem(publicKey)], payload, changed).kind).toBe('refused')
    }
    for (const bad of [Buffer.alloc(0), signature.subarray(0, -1), Buffer.alloc(64), Buffer.alloc(100_000)]) {
      expect(verifyWithPublicKeys([pem(publicKey)], payload, bad).kind).toBe('refused')
    }
  })
})

test('the empty ECDSA signature (r = s = 0) is refused', () => {
  const zero = Buffer.from('3006020100020100', 'hex')
  expect(verifyWithPublicKeys([pem(pairs.p256.publicKey)], payload, zero).kind).toBe('refused')
})

test.each([
  ['text', Buffer.from('key'), /no PEM public key/],
  ['nothing', Buffer.alloc(0), /no PEM public key/],
  [
    'a private key',
    Buffer.from(pairs.p256.privateKey.export({ type: 'pkcs8', format: 'pem' })),
    /no PEM public key/,
  ],
  [
    'a broken key',
    Buffer.from('-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n'),
    /cannot be read/,
  ],
  [
    'a short RSA key',
    pem(generateKeyPairSync('rsa', { modulusLength: 1024 }).publicKey),
    /not trusted \(rsa\)/,
  ],
  ['a key agreement key', pem(generateKeyPairSync('x25519').publicKey), /not trusted \(x25519\)/],
])('%s is no key', (_name, key, reason) => {
  const signature = sign('sha256', payload, pairs.p256.privateKey)
  const verdict = verifyWithPublicKeys([key], payload, signature)
  expect(verdict.kind === 'refused' ? verdict.reason : '').toMatch(reason)
})
