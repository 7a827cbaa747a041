import {
  constants,
  createPrivateKey,
  createPublicKey,
  generateKeyPair,
  type KeyObject,
  privateDecrypt,
} from 'node:crypto'
import { chownSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { promisify } from 'node:util'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

/** Decrypts what the stock client encrypts: hex of RSA-OAEP-SHA512. */
export interface TransportKey {
  decrypt(hex: string): string
  /** Puts the public half where clients look for it, readable by the group that may use the socket. */
  publish(gid: number): Promise<void>
  /**
   * Makes and publishes a new pair when the one in use is older than `age` milliseconds; until the daemon ends, what was
   * encrypted with the old one is understood, too. Resolves to whether it did. To be called after `publish`, without
   * waiting for it: a pair takes a while.
   */
  rotate(gid: number, age: number): Promise<boolean>
  /** Removes the public half published here; clients then know that no daemon listens. */
  withdraw(): Promise<void>
}

/**
 * The RSA-2048 pair of the original's wire format. The private half stays in the data root (0600); the
 * public one goes to `publicPath`, where the stock client looks for it.
 */
export async function loadTransportKey(privatePath: string, publicPath: string): Promise<TransportKey> {
  let key = (await existing(privatePath)) ?? (await generate(privatePath))
  let pem = publicPem(key)
  let retired: KeyObject | undefined
  const publish = async (gid: number): Promise<void> => {
    const directory = dirname(publicPath)
    mkdirSync(directory, { recursive: true, mode: 0o750 })
    const { uid, mode } = statSync(directory)
    // A closed directory has to let the group through; one open to everybody is shared with others.
    if ((mode & 0o001) === 0) chownSync(directory, uid, gid)
    await replaceFile(publicPath, pem, 0o440, gid)
  }
  return {
    decrypt(hex) {
      if (!/^([0-9a-f]{2})+$/i.test(hex)) {
        throw new BuilderError('ISB_ARGUMENT_INVALID', 'an encrypted field is not hexadecimal')
      }
      const field = Buffer.from(hex, 'hex')
      try {
        return open(key, field)
      } catch (error) {
        const text = retired === undefined ? undefined : tryOpen(retired, field)
        if (text !== undefined) return text
        throw new BuilderError(
          'ISB_ARGUMENT_INVALID',
          'an encrypted field was not made with the current key',
          {
            hint: `Encrypt with the key in ${publicPath}.`,
            cause: error,
          },
        )
      }
    },
    publish,
    async rotate(gid, age) {
      const { mtimeMs } = statSync(privatePath)
      if (Date.now() - mtimeMs < age) return false
      const next = await generate(privatePath)
      retired = key
      key = next
      pem = publicPem(next)
      await publish(gid)
      return true
    },
    async withdraw() {
      // Another daemon with this configuration directory may have replaced it.
      if ((await textOf(publicPath)) === pem) rmSync(publicPath, { force: true })
    },
  }
}

function publicPem(key: KeyObject): string {
  const spki = createPublicKey(key).export({ type: 'spki', format: 'der' }).toString('base64')
  const body = spki.match(/.{1,64}/g)?.join('\n') ?? ''
  // The original labels its PKIX structure so, and its client looks for the label.
  return `-----BEGIN RSA PUBLIC KEY-----\n${body}\n-----END RSA PUBLIC KEY-----\n`
}

function open(key: KeyObject, field: Buffer): string {
  const options = { key, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: 'sha512' }
  return privateDecrypt(options, field).toString('utf8')
}

function tryOpen(key: KeyObject, field: Buffer): string | undefined {
  try {
    return open(key, field)
  } catch {
    return undefined
  }
}

async function textOf(path: string): Promise<string | undefined> {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}

async function existing(path: string): Promise<KeyObject | undefined> {
  const pem = await textOf(path)
  if (pem === undefined) return undefined
  try {
    return createPrivateKey(pem)
  } catch {
    // A damaged key protects nothing; a new pair replaces it.
    return undefined
  }
}

async function generate(path: string): Promise<KeyObject> {
  const { privateKey } = await promisify(generateKeyPair)('rsa', { modulusLength: 2048 })
  await replaceFile(path, privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(), 0o600)
  return privateKey
}

async function replaceFile(path: string, content: string, mode: number, gid?: number): Promise<void> {
  const next = `${path}.new`
  rmSync(next, { force: true })
  writeFileSync(next, content, { mode, flag: 'wx' })
  if (gid !== undefined) chownSync(next, statSync(next).uid, gid)
  renameSync(next, path)
}
