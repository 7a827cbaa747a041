import { createHash } from 'node:crypto'
import { createWriteStream } from 'node:fs'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { digestFromHex } from '@isula-build/shared/oci/digest.js'
import type { Download, Downloader } from '../ports/downloads.js'

export interface DownloadLimits {
  /** Bytes of one body. */
  readonly size: number
  /** Milliseconds without a byte. */
  readonly idle: number
}

const redirects = new Set([301, 302, 303, 307, 308])
const maxRedirects = 10

export function createDownloader(limits: DownloadLimits): Downloader {
  return {
    async fetch(url, { file, checksum, signal }): Promise<Download> {
      const response = await open(new URL(url), limits, signal)
      const hash = createHash('sha256')
      let size = 0
      const meter = new Transform({
        transform(chunk: Buffer, _encoding, done) {
          size += chunk.length
          if (size > limits.size) done(tooLarge(url, limits.size))
          else {
            hash.update(chunk)
            done(null, chunk)
          }
        },
      })
      try {
        await pipeline(response, meter, createWriteStream(file, { flags: 'wx', mode: 0o600 }), { signal })
      } catch (error) {
        throw failure(url, signal, error)
      }
      const digest = digestFromHex(hash.digest('hex'))
      if (checksum !== undefined && checksum !== digest) {
        throw new BuilderError(
          'ISB_DIGEST_MISMATCH',
          `digest mismatch of ${display(url)}: got ${digest}, want ${checksum}`,
          { hint: 'The file at this URL is not the one the checksum was made for.' },
        )
      }
      return { name: fileName(new URL(url)), mtime: lastModified(response), digest }
    },
  }
}

async function open(first: URL, limits: DownloadLimits, signal: AbortSignal): Promise<IncomingMessage> {
  let url = first
  for (let hop = 0; hop <= maxRedirects; hop++) {
    const response = await get(url, limits, signal)
    const status = response.statusCode ?? 0
    if (status >= 200 && status < 300) {
      const length = Number(response.headers['content-length'])
      if (length > limits.size) {
        response.destroy()
        throw tooLarge(first.href, limits.size)
      }
      return response
    }
    response.destroy()
    const location = response.headers.location
    if (!redirects.has(status) || location === undefined) {
      throw new BuilderError('ISB_DOWNLOAD_FAILED', `${display(url.href)} answered ${status}`)
    }
    const next = redirection(location, url)
    if (next.protocol !== 'http:' && next.protocol !== 'https:') {
      throw new BuilderError(
        'ISB_DOWNLOAD_FAILED',
        `${display(url.href)} redirects to ${next.protocol}, only http and https are followed`,
      )
    }
    // Credentials of one origin are nobody else's.
    if (next.origin !== url.origin) {
      next.username = ''
      next.password = ''
    }
    url = next
  }
  throw new BuilderError(
    'ISB_DOWNLOAD_FAILED',
    `${display(first.href)} redirects more than ${maxRedirects} times`,
  )
}

function redirection(location: string, from: URL): URL {
  try {
    return new URL(location, from)
  } catch (cause) {
    throw new BuilderError('ISB_DOWNLOAD_FAILED', `${display(from.href)} redirects to what is no URL`, {
      cause,
    })
  }
}

function get(url: URL, limits: DownloadLimits, signal: AbortSignal): Promise<IncomingMessage> {
  const request = url.protocol === 'https:' ? httpsRequest : httpRequest
  // Node would decode the user itself, and throw at what it cannot decode.
  const bare = withoutUser(url)
  return new Promise((resolve, reject) => {
    const outgoing = request(bare, {
      signal,
      // As stored on the server: a content encoding would change the bytes.
      headers: { 'accept-encoding': 'identity', 'user-agent': 'isula-build' },
      maxHeaderSize: 16 * 1024,
      ...(url.username === ''
        ? {}
        : { auth: `${percentDecoded(url.username)}:${percentDecoded(url.password)}` }),
    })
    outgoing.setTimeout(limits.idle, () =>
      outgoing.destroy(new Error(`no answer for ${limits.idle / 1000} s`)),
    )
    outgoing.on('response', resolve)
    outgoing.on('error', (error) => reject(failure(url.href, signal, error)))
    outgoing.end()
  })
}

function failure(url: string, signal: AbortSignal, error: unknown): BuilderError {
  if (error instanceof BuilderError) return error
  if (signal.aborted) return new BuilderError('ISB_CANCELLED', 'the build was cancelled')
  return new BuilderError(
    'ISB_DOWNLOAD_FAILED',
    `cannot fetch ${display(url)}: ${(error as Error).message}`,
    {
      cause: error,
    },
  )
}

function tooLarge(url: string, limit: number): BuilderError {
  return new BuilderError('ISB_LIMIT_EXCEEDED', `${display(url)} is larger than ${limit} bytes`)
}

function display(url: string): string {
  return withoutUser(new URL(url)).href
}

function withoutUser(url: URL): URL {
  const bare = new URL(url)
  bare.username = ''
  bare.password = ''
  return bare
}

/**
 * Last part of the decoded path as it was asked for, slashes behind it aside; redirects and headers do not rename the file, and no
 * name leads anywhere.
 */
function fileName(url: URL): string {
  const last = percentDecoded(url.pathname).replace(/\/+$/, '').split('/').pop() ?? ''
  return last === '' || last === '.' || last === '..' || last.includes('\0') ? '__unnamed__' : last
}

/** What is no percent-encoding stands for itself. */
function percentDecoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

function lastModified(response: IncomingMessage): number {
  const time = Date.parse(response.headers['last-modified'] ?? '')
  return Number.isNaN(time) ? 0 : Math.floor(time / 1000)
}
