import {
  constants,
  createPrivateKey,
  createPublicKey,
  generateKeyPair,
  type KeyObject,
  privateDecrypt,
} from 'node:crypto'
import { chown, mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { promisify } from 'node:util'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'

/** Decrypts what the stock client encrypts: hex of RSA-OAEP-SHA512. */
export interface TransportKey {
  decrypt(hex: string): string
  /** Puts the public half where clients look for it, readable by the group that may use the socket. */
  publish(gid: number): Promise<void>
  /** Removes the public half published here; clients then know that no daemon listens. */
  withdraw(): Promise<void>
}

/**
 * The RSA-2048 pair of the original's wire format. The private half stays in the data root (0600); the
 * public one goes to `publicPath`, where the stock client looks for it.
 */
export async function loadTransportKey(privatePath: string, publicPath: string): Promise<TransportKey> {
  const key = (await existing(privatePath)) ?? (await generate(privatePath))
  const spki = createPublicKey(key).export({ type: 'spki', format: 'der' }).toString('base64')
  const body = spki.match(/.{1,64}/g)?.join('\n') ?? ''
  // The original labels its PKIX structure so, and its client looks for the label.
  const pem = `-----BEGIN RSA PUBLIC KEY-----\n${body}\n-----END RSA PUBLIC KEY-----\n`
  return {
    decrypt(hex) {
      if (!/^([0-9a-f]{2})+$/i.test(hex)) {
        throw new BuilderError('ISB_ARGUMENT_INVALID', 'an encrypted field is not hexadecimal')
      }
      try {
        const options = { key, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: 'sha512' }
        return privateDecrypt(options, Buffer.from(hex, 'hex')).toString('utf8')
      } catch (error) {
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
    async publish(gid) {
      const directory = dirname(publicPath)
      await mkdir(directory, { recursive: true, mode: 0o750 })
      const { uid, mode } = await stat(directory)
      // A closed directory has to let the group through; one open to everybody is shared with others.
      if ((mode & 0o001) === 0) await chown(directory, uid, gid)
      await replaceFile(publicPath, pem, 0o440, gid)
    },
    async withdraw() {
      // Another daemon with this configuration directory may have replaced it.
      if ((await textOf(publicPath)) === pem) await rm(publicPath, { force: true })
    },
  }
}

async function textOf(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8')
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
  await rm(next, { force: true })
  await writeFile(next, content, { mode, flag: 'wx' })
  if (gid !== undefined) await chown(next, (await stat(next)).uid, gid)
  await rename(next, path)
}
