import { constants } from 'node:fs'
import { open } from 'node:fs/promises'
import { get as httpGet, type IncomingMessage } from 'node:http'
import { get as httpsGet } from 'node:https'
import type { ConnectionOptions, SecureContext } from 'node:tls'
import { fileURLToPath } from 'node:url'
import { maxSignatures, signatureLimit } from './verdict.js'

export interface LookasideOptions {
  /** What a host is verified with; undefined: Node's certificate authorities. */
  readonly trust?: ((host: string) => SecureContext) | undefined
}

const headTime = 30_000
const maxRedirects = 5

/**
 * Simple signatures of one manifest: `signature-1`, `signature-2`, … below `directory` until one is missing
 * (containers/image, docs/signature-protocols.md). Fails with an Error when a place cannot be read.
 */
export async function readLookaside(
  directory: URL,
  signal: AbortSignal,
  options: LookasideOptions = {},
): Promise<readonly Uint8Array[]> {
  const signatures: Uint8Array[] = []
  while (signatures.length < maxSignatures) {
    const url = new URL(directory)
    url.pathname = `${directory.pathname}/signature-${signatures.length + 1}`
    const found = url.protocol === 'file:' ? await readFile(url) : await fetch(url, signal, options, 0)
    if (found === undefined) return signatures
    signatures.push(found)
  }
  throw new Error(`${directory.href} has more than ${maxSignatures} signatures`)
}

async function readFile(url: URL): Promise<Uint8Array | undefined> {
  const path = fileURLToPath(url)
  const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK).catch((error: unknown) => {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined
    throw error
  })
  if (handle === undefined) return undefined
  try {
    const stat = await handle.stat()
    if (!stat.isFile()) throw new Error(`${path} is not a regular file`)
    if (stat.size > signatureLimit) throw new Error(`${path} is larger than ${signatureLimit} bytes`)
    return await handle.readFile()
  } finally {
    await handle.close()
  }
}

async function fetch(
  url: URL,
  signal: AbortSignal,
  options: LookasideOptions,
  redirects: number,
): Promise<Uint8Array | undefined> {
  const answer = await head(url, signal, options)
  const { statusCode: status = 0, headers } = answer
  if (status === 200) return await body(answer, url)
  answer.destroy()
  if (status === 404) return undefined
  if (
    [301, 302, 303, 307, 308].includes(status) &&
    headers.location !== undefined &&
    redirects < maxRedirects
  ) {
    const next = new URL(headers.location, url)
    if (next.protocol !== 'https:' && next.protocol !== url.protocol) {
      throw new Error(`${url.href} leads to ${next.protocol}//, which is not followed`)
    }
    return await fetch(next, signal, options, redirects + 1)
  }
  throw new Error(`${url.href} answers with status ${status}`)
}

function head(url: URL, signal: AbortSignal, { trust }: LookasideOptions): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const settings = { signal, agent: false, timeout: headTime } as const
    const secure: Pick<ConnectionOptions, 'secureContext'> =
      url.protocol === 'https:' && trust !== undefined ? { secureContext: trust(url.host) } : {}
    const request =
      url.protocol === 'https:'
        ? httpsGet(url, { ...settings, ...secure }, resolve)
        : httpGet(url, settings, resolve)
    request.on('timeout', () => request.destroy(new Error(`${url.host} says nothing`)))
    request.on('error', (error) => reject(new Error(`${url.href}: ${error.message}`, { cause: error })))
  })
}

async function body(answer: IncomingMessage, url: URL): Promise<Uint8Array> {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of answer) {
    size += (chunk as Buffer).length
    // Leaving the loop closes the connection.
    if (size > signatureLimit) throw new Error(`${url.href} is larger than ${signatureLimit} bytes`)
    chunks.push(chunk as Buffer)
  }
  if (!answer.complete) throw new Error(`${url.href} ends early`)
  return Buffer.concat(chunks)
}
