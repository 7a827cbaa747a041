import { spawn } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { refused, signatureLimit, type Verdict } from './verdict.js'

const searchPath = ['/usr/bin', '/usr/local/bin', '/bin']
const timeLimit = 30_000
const statusLimit = 256 * 1024

/**
 * Verifies messages signed with GPG (RFC 4880, one-pass or old style, not detached) with these public keys and no other
 * ones: every call has a home directory of its own below `directory`.
 */
export async function verifyGpg(
  directory: string,
  keys: readonly Uint8Array[],
  signature: Uint8Array,
  signal: AbortSignal,
): Promise<Verdict> {
  await mkdir(directory, { recursive: true, mode: 0o700 })
  const home = await mkdtemp(join(directory, 'gpg-'))
  try {
    const paths: string[] = []
    for (const [index, key] of keys.entries()) paths.push(await put(home, `key-${index}`, key))
    const imported = await run(home, ['--import', ...paths], signal)
    if (!imported.status.some(([word]) => word === 'IMPORT_OK')) {
      return refused('the policy names no usable public key')
    }
    const message = await put(home, 'message', signature)
    // Trust is decided by what was imported; a web of trust does not exist here.
    return verdict(
      await run(home, ['--trust-model', 'always', '--output', '-', '--decrypt', message], signal),
    )
  } finally {
    await rm(home, { recursive: true, force: true })
  }
}

async function put(home: string, name: string, content: Uint8Array): Promise<string> {
  const path = join(home, name)
  await writeFile(path, content, { mode: 0o600, flag: 'wx' })
  return path
}

interface Outcome {
  readonly code: number | null
  /** Status lines (GnuPG, doc/DETAILS) by words. */
  readonly status: readonly (readonly string[])[]
  readonly output: Buffer
}

/** Exactly one good signature over exactly one text; GPG ends with 0 for keys that have expired, too. */
function verdict({ code, status, output }: Outcome): Verdict {
  const count = (wanted: string): number => status.filter(([word]) => word === wanted).length
  const bad = ['BADSIG', 'ERRSIG', 'EXPSIG', 'EXPKEYSIG', 'REVKEYSIG'].find((word) => count(word) > 0)
  if (bad !== undefined) return refused(reasons.get(bad) ?? bad)
  if (count('GOODSIG') === 0) return refused('it holds no signature')
  if (count('GOODSIG') !== 1 || count('VALIDSIG') !== 1 || count('PLAINTEXT') !== 1 || code !== 0) {
    return refused('it is not exactly one text with exactly one signature')
  }
  return { kind: 'verified', payload: output }
}

const reasons: ReadonlyMap<string, string> = new Map([
  ['BADSIG', 'the signature does not fit the text'],
  ['ERRSIG', 'it was made with a key that the policy does not trust, or in a way that gpg does not support'],
  ['EXPSIG', 'the signature has expired'],
  ['EXPKEYSIG', 'the key has expired'],
  ['REVKEYSIG', 'the key was revoked'],
])

async function run(home: string, args: readonly string[], signal: AbortSignal): Promise<Outcome> {
  const child = spawn(
    gpgProgram(),
    [
      ...['--homedir', home, '--no-options', '--batch', '--no-tty', '--quiet', '--no-autostart'],
      ...['--no-auto-key-retrieve', '--status-fd', '3', ...args],
    ],
    {
      env: { PATH: searchPath.join(':'), HOME: home, GNUPGHOME: home, LC_ALL: 'C' },
      cwd: home,
      stdio: ['ignore', 'pipe', 'ignore', 'pipe'],
      signal: AbortSignal.any([signal, AbortSignal.timeout(timeLimit)]),
      killSignal: 'SIGKILL',
    },
  )
  const closed = new Promise<number | null>((resolve) => child.once('close', resolve))
  const failed = new Promise<never>((_, reject) => child.on('error', reject))
  const output = collect(child.stdio[1], signatureLimit)
  const status = collect(child.stdio[3] as Readable | null, statusLimit)
  try {
    const [text, lines] = await Promise.race([Promise.all([output, status]), failed])
    return { code: await closed, output: text, status: statusWords(lines) }
  } catch (error) {
    child.kill('SIGKILL')
    if (child.pid !== undefined) await closed
    signal.throwIfAborted()
    throw new BuilderError('ISB_POLICY_REJECTED', `gpg failed: ${(error as Error).message}`, { cause: error })
  }
}

function statusWords(text: Buffer): readonly (readonly string[])[] {
  const lines = text.toString('utf8').split('\n')
  return lines.filter((line) => line.startsWith('[GNUPG:] ')).map((line) => line.slice(9).split(' '))
}

/** A compressed message may hold far more than it is long. */
async function collect(stream: Readable | null, limit: number): Promise<Buffer> {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of stream ?? []) {
    size += (chunk as Buffer).length
    if (size > limit) throw new Error(`it said more than ${limit} bytes`)
    chunks.push(chunk as Buffer)
  }
  return Buffer.concat(chunks)
}

function gpgProgram(): string {
  for (const path of searchPath.flatMap((directory) => [`${directory}/gpg`, `${directory}/gpg2`])) {
    try {
      accessSync(path, constants.X_OK)
      return path
    } catch {
      // The next one may be there.
    }
  }
  throw new BuilderError(
    'ISB_POLICY_REJECTED',
    'the policy asks for a GPG signature and gpg is not installed',
    {
      hint: 'Install gnupg on this machine.',
    },
  )
}
