import { execFileSync } from 'node:child_process'
import { constants, createPublicKey, publicEncrypt } from 'node:crypto'
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { loadTransportKey } from './transport-key.js'

const isRoot = process.getuid?.() === 0
const ownGid = process.getgid?.() ?? 0
let directory = ''
let privatePath = ''
let publicPath = ''

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'isula-key-'))
  privatePath = join(directory, 'key.pem')
  publicPath = join(directory, 'etc/isula-build.pub')
})
afterEach(() => rmSync(directory, { recursive: true, force: true }))

/** As the stock client does it: the label is that of another structure. */
function encrypt(text: string): string {
  const pem = readFileSync(publicPath, 'utf8').replaceAll('RSA PUBLIC KEY', 'PUBLIC KEY')
  const options = {
    key: createPublicKey(pem),
    padding: constants.RSA_PKCS1_OAEP_PADDING,
    oaepHash: 'sha512',
  }
  return publicEncrypt(options, Buffer.from(text)).toString('hex')
}

test('what is encrypted with the published key comes back, also after a restart', async () => {
  const key = await loadTransportKey(privatePath, publicPath)
  await key.publish(ownGid)
  const secret = encrypt('http_proxy=http://user:pw@proxy')
  expect(key.decrypt(secret)).toBe('http_proxy=http://user:pw@proxy')
  await key.withdraw()
  const again = await loadTransportKey(privatePath, publicPath)
  expect(again.decrypt(secret)).toBe('http_proxy=http://user:pw@proxy')
})

test('the private half is the owner’s alone, the public one the group’s', async () => {
  const key = await loadTransportKey(privatePath, publicPath)
  const gid = isRoot ? 54_321 : ownGid
  await key.publish(gid)
  expect(statSync(privatePath).mode & 0o7777).toBe(0o600)
  expect(statSync(publicPath).mode & 0o7777).toBe(0o440)
  expect(statSync(publicPath).gid).toBe(gid)
})

test('a closed configuration directory lets the group in, a shared one stays as it is', async () => {
  const key = await loadTransportKey(privatePath, publicPath)
  const gid = isRoot ? 54_321 : ownGid
  mkdirSync(join(directory, 'etc'))
  chmodSync(join(directory, 'etc'), 0o755)
  await key.publish(gid)
  expect(statSync(join(directory, 'etc')).gid).toBe(ownGid)
  chmodSync(join(directory, 'etc'), 0o750)
  await key.publish(gid)
  expect(statSync(join(directory, 'etc')).gid).toBe(gid)
})

test('withdrawing leaves the key of another daemon alone', async () => {
  const key = await loadTransportKey(privatePath, publicPath)
  await key.publish(ownGid)
  const other = await loadTransportKey(join(directory, 'other.pem'), publicPath)
  await other.publish(ownGid)
  const theirs = readFileSync(publicPath, 'utf8')
  await key.withdraw()
  expect(readFileSync(publicPath, 'utf8')).toBe(theirs)
  await other.withdraw()
  expect(() => statSync(publicPath)).toThrow('ENOENT')
  await other.withdraw()
})

test('an old pair is replaced, and understood until the daemon ends', async () => {
  const key = await loadTransportKey(privatePath, publicPath)
  await key.publish(ownGid)
  const before = encrypt('before')
  expect(await key.rotate(ownGid, 60_000)).toBe(false)
  utimesSync(privatePath, 0, 0)
  expect(await key.rotate(ownGid, 60_000)).toBe(true)
  const after = encrypt('after')
  expect(key.decrypt(before)).toBe('before')
  expect(key.decrypt(after)).toBe('after')
  expect(statSync(privatePath).mode & 0o7777).toBe(0o600)
  expect(statSync(publicPath).mode & 0o7777).toBe(0o440)
  const next = await loadTransportKey(privatePath, publicPath)
  expect(next.decrypt(after)).toBe('after')
  expect(() => next.decrypt(before)).toThrow('was not made with the current key')
  await key.withdraw()
  expect(() => statSync(publicPath)).toThrow('ENOENT')
})

test.runIf(isRoot)('members of the group can read the public half, nobody else can', async () => {
  const gid = 54_321
  chmodSync(directory, 0o755)
  mkdirSync(join(directory, 'etc'), { mode: 0o750 })
  const key = await loadTransportKey(privatePath, publicPath)
  await key.publish(gid)
  const readAs = (group: number): string =>
    execFileSync('cat', [publicPath], { uid: 54_322, gid: group, encoding: 'utf8', stdio: 'pipe' })
  expect(readAs(gid)).toContain('BEGIN RSA PUBLIC KEY')
  expect(() => readAs(54_323)).toThrow('Permission denied')
})

test('a damaged private key is replaced', async () => {
  writeFileSync(privatePath, 'garbage')
  const key = await loadTransportKey(privatePath, publicPath)
  await key.publish(ownGid)
  expect(key.decrypt(encrypt('x'))).toBe('x')
})

test.each(['', 'zz', 'abc', '00', 'ab'.repeat(256)])('%j is refused as an encrypted field', async (field) => {
  const key = await loadTransportKey(privatePath, publicPath)
  expect(() => key.decrypt(field)).toThrow(expect.objectContaining({ code: 'ISB_ARGUMENT_INVALID' }))
})
