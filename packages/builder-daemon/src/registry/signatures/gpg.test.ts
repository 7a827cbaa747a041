import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { verifyGpg } from './gpg.js'

let directory = ''
let home = ''
const never = new AbortController().signal

function gpg(args: readonly string[], input: string | Uint8Array = ''): Buffer {
  return execFileSync(
    'gpg',
    ['--homedir', home, '--batch', '--quiet', '--pinentry-mode', 'loopback', '--passphrase', '', ...args],
    { input, stdio: ['pipe', 'pipe', 'ignore'], maxBuffer: 1 << 28 },
  )
}

function makeKey(name: string, expires: string): Buffer {
  gpg(['--quick-generate-key', `${name} <${name}@test>`, 'ed25519', 'sign', expires])
  return gpg(['--export', name])
}

const sign = (name: string, text: string | Uint8Array, ...more: readonly string[]): Buffer =>
  gpg(['--local-user', name, ...more, '--sign'], text)
const verify = (keys: readonly Uint8Array[], signature: Uint8Array) =>
  verifyGpg(join(directory, 'work'), keys, signature, never)

let alice: Buffer
let bob: Buffer

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'isula-gpg-'))
  home = join(directory, 'home')
  mkdirSync(home, { mode: 0o700 })
  alice = makeKey('alice', 'never')
  bob = makeKey('bob', 'never')
})
afterAll(() => {
  spawnSync('gpgconf', ['--homedir', home, '--kill', 'all'])
  rmSync(directory, { recursive: true, force: true })
})

describe('a signed message', () => {
  test('by a trusted key gives its text, and nothing stays behind', async () => {
    expect(await verify([alice], sign('alice', 'text'))).toEqual({
      ...{ kind: 'verified', payload: Buffer.from('text') },
    })
    expect(readdirSync(join(directory, 'work'))).toEqual([])
  })

  test('may be by any of several keys, armored or not', async () => {
    const armored = gpg(['--armor', '--export', 'bob'])
    expect(await verify([alice, armored], sign('bob', 'text', '--armor'))).toMatchObject({ kind: 'verified' })
    const both = gpg(['--export', 'alice', 'bob'])
    expect(await verify([both], sign('bob', 'text'))).toMatchObject({ kind: 'verified' })
  })

  test('may be by a subkey', async () => {
    makeKey('carol', 'never')
    const fingerprint =
      /^fpr:+([0-9A-F]+):/m.exec(gpg(['--with-colons', '-K', 'carol']).toString())?.[1] ?? ''
    gpg(['--quick-add-key', fingerprint, 'ed25519', 'sign', 'never'])
    expect(await verify([gpg(['--export', 'carol'])], sign('carol', 'text'))).toMatchObject({
      kind: 'verified',
    })
  })

  test.each<[string, () => Uint8Array | Promise<Uint8Array>, RegExp]>([
    ['by another key', () => sign('bob', 'text'), /made with a key that the policy does not trust/],
    [
      'that was changed',
      () => changed(sign('alice', 'text '.repeat(50), '-z', '0')),
      /does not fit|not exactly|no signature/,
    ],
    ['that nobody signed', () => gpg(['--store'], 'text'), /holds no signature/],
    ['without its text', () => gpg(['--local-user', 'alice', '--detach-sign'], 'text'), /does not fit/],
    ['by two keys', () => sign('alice', 'text', '--local-user', 'bob'), /does not trust|not exactly one/],
    [
      'with unsigned text before it',
      () => Buffer.concat([gpg(['--store'], 'b'), sign('alice', 'a')]),
      /not exactly|no sig/,
    ],
    ['that is empty', () => Buffer.alloc(0), /holds no signature/],
    ['that is noise', () => Buffer.from('[GNUPG:] GOODSIG 1 x\n[GNUPG:] VALIDSIG 1\n'), /holds no signature/],
    ['that is encrypted', () => gpg(['--passphrase', 'x', '--symmetric'], 'text'), /holds no signature/],
  ])('%s is refused', async (_name, make, reason) => {
    const verdict = await verify([alice], await make())
    expect(verdict).toMatchObject({ kind: 'refused' })
    expect(verdict.kind === 'refused' ? verdict.reason : '').toMatch(reason)
  })

  test.each<[string, () => Buffer]>([
    ['unsigned text', () => gpg(['--store'], 'more')],
    ['another signed text', () => sign('alice', 'more')],
    ['noise', () => Buffer.from('more')],
  ])('with %s behind it is that message, or none', async (_name, make) => {
    // Of a compressed message gpg reads to its end and no further.
    const packed = await verify([alice], Buffer.concat([sign('alice', 'text', '-z', '6'), make()]))
    expect(packed.kind === 'verified' ? String(packed.payload) : 'text').toBe('text')
    const plain = await verify([alice], Buffer.concat([sign('alice', 'text', '-z', '0'), make()]))
    expect(plain.kind === 'verified' ? String(plain.payload) : 'text').toBe('text')
  })

  test('by two trusted keys is refused, as it is not clear whose word counts', async () => {
    const both = sign('alice', 'text', '--local-user', 'bob')
    expect(await verify([alice, bob], both)).toMatchObject({ kind: 'refused' })
  })

  test('by a key that has expired is refused', async () => {
    const key = makeKey('eve', 'seconds=1')
    const signature = sign('eve', 'text')
    await new Promise((resolve) => setTimeout(resolve, 2100))
    expect(await verify([key], signature)).toEqual({ kind: 'refused', reason: 'the key has expired' })
  })

  test('by a key that was revoked is refused', async () => {
    makeKey('mallory', 'never')
    const signature = sign('mallory', 'text')
    const fingerprint = /^fpr:+([0-9A-F]+):/m.exec(gpg(['--with-colons', '-K', 'mallory']).toString())?.[1]
    const certificate = join(home, 'openpgp-revocs.d', `${fingerprint}.rev`)
    const text = readFileSync(certificate, 'utf8').replace(':-----BEGIN', '-----BEGIN')
    writeFileSync(certificate, text)
    gpg(['--import', certificate])
    const verdict = await verify([gpg(['--export', 'mallory'])], signature)
    expect(verdict).toEqual({ kind: 'refused', reason: 'the key was revoked' })
  })

  test('that unpacks to far more than it is long is not read to its end', async () => {
    const bomb = sign('alice', Buffer.alloc(64 << 20), '-z', '9')
    expect(bomb.length).toBeLessThan(1 << 20)
    await expect(verify([alice], bomb)).rejects.toThrow('gpg failed: it said more than 4194304 bytes')
    expect(readdirSync(join(directory, 'work'))).toEqual([])
  })
})

test.each([
  ['no key at all', Buffer.from('nothing')],
  ['an empty file', Buffer.alloc(0)],
])('%s verifies nothing', async (_name, key) => {
  expect(await verify([key], sign('alice', 'text'))).toEqual({
    ...{ kind: 'refused', reason: 'the policy names no usable public key' },
  })
})

test('an aborted call ends at once and leaves nothing', async () => {
  const gone = AbortSignal.abort(new Error('gone'))
  await expect(verifyGpg(join(directory, 'work'), [alice], sign('alice', 'x'), gone)).rejects.toThrow('gone')
  expect(readdirSync(join(directory, 'work'))).toEqual([])
})

/** One bit of the text, which lies in it as it is. */
function changed(signature: Buffer): Buffer {
  const copy = Buffer.from(signature)
  const at = copy.indexOf('text')
  copy[at] = (copy[at] ?? 0) ^ 1
  return copy
}
