import { createPublicKey, type KeyObject, verify } from 'node:crypto'
import { refused, type Verdict } from './verdict.js'

/**
 * Verifies a signature as cosign makes them: ECDSA or RSA (PKCS#1 v1.5) with SHA-256, or Ed25519, over the payload itself.
 * `keys` are PEM (`PUBLIC KEY`).
 */
export function verifyWithPublicKeys(
  keys: readonly Uint8Array[],
  payload: Uint8Array,
  signature: Uint8Array,
): Verdict {
  const unusable: string[] = []
  for (const pem of keys) {
    const key = publicKey(pem)
    if (typeof key === 'string') unusable.push(key)
    else if (fits(key, payload, signature)) return { kind: 'verified', payload }
  }
  if (unusable.length === keys.length) return refused(unusable[0] ?? 'the policy names no key')
  return refused('it was not made with a key that the policy trusts')
}

/** Text: why it is of no use. */
function publicKey(pem: Uint8Array): KeyObject | string {
  const text = Buffer.from(pem).toString('latin1')
  // A private key would do as well, and has no business in a policy.
  if (!text.includes('-----BEGIN PUBLIC KEY-----')) return 'the key of the policy is no PEM public key'
  let key: KeyObject
  try {
    key = createPublicKey(text)
  } catch (error) {
    return `the key of the policy cannot be read: ${(error as Error).message}`
  }
  const { asymmetricKeyType: type, asymmetricKeyDetails: details } = key
  if (type === 'ec' || type === 'ed25519') return key
  if (type === 'rsa' && (details?.modulusLength ?? 0) >= 2048) return key
  return `the key of the policy is of a kind that is not trusted (${type})`
}

function fits(key: KeyObject, payload: Uint8Array, signature: Uint8Array): boolean {
  const algorithm = key.asymmetricKeyType === 'ed25519' ? null : 'sha256'
  try {
    return verify(algorithm, payload, key, signature)
  } catch {
    // What is no signature of this kind at all does not fit either.
    return false
  }
}
