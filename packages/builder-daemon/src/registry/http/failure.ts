import { STATUS_CODES } from 'node:http'
import { BuilderError, isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import type { ErrorCode } from '@isula-build/shared/errors/codes.js'
import { registryError, shown } from './error-text.js'
import type { Answer } from './exchange.js'
import type { NoAnswer } from './no-answer.js'

/** Whom a request went to, and for what; both stand in every message. */
export interface Subject {
  /** As users write it. */
  readonly host: string
  /** E.g. `manifest 1.36 of docker.io/library/busybox`. */
  readonly what: string
  /** Where it is not the registry: its token server, or where it redirected to. */
  readonly server?: string | undefined
  /** Whether the answer was given to somebody who had logged in; undefined: not known. */
  readonly known?: boolean | undefined
  /** A token server gave a token for that login before the answer came. */
  readonly accepted?: boolean | undefined
}

/** No answer, or half of one. */
export function transportError(failure: NoAnswer, subject: Subject): BuilderError {
  const { hint } = failure.details
  return new BuilderError('ISB_REGISTRY_UNAVAILABLE', sentence(subject, failure.message), {
    cause: failure,
    ...(hint === undefined ? {} : { hint }),
  })
}

const longestErrorBody = 1024 * 1024
const errorBodyTime = 10_000

/**
 * The error for an answer that was not wanted, with what the registry says about it; reads at most 1 MiB of it, for at
 * most ten seconds. 401, 403 and other 4xx: ISB_REGISTRY_DENIED; 404 of a manifest or repository: ISB_IMAGE_NOT_FOUND;
 * 408, 429, 5xx: ISB_REGISTRY_UNAVAILABLE.
 */
export async function answerError(answer: Answer, subject: Subject): Promise<BuilderError> {
  const said = registryError(await errorBody(answer))
  const { status } = answer
  const quoted = [said?.code, said?.message && JSON.stringify(said.message)].filter(Boolean).join(' ')
  const text =
    `${status} ${STATUS_CODES[status]?.toLowerCase() ?? ''}`.trim() + (quoted === '' ? '' : `: ${quoted}`)
  const hint = statusHint(answer, said?.code ?? '', subject)
  return new BuilderError(statusCode(answer, said?.code ?? ''), sentence(subject, `answered ${text}`), {
    ...(hint === undefined ? {} : { hint }),
  })
}

/** Cause first, then what it was about. */
export function sentence({ host, what, server }: Subject, text: string): string {
  const who =
    server === undefined || server === host ? `registry ${host}` : `${shown(server)} for registry ${host}`
  return `${who}: ${text} (${what})`
}

async function errorBody(answer: Answer): Promise<string> {
  if (answer.headers['content-encoding'] !== undefined) {
    await answer.discard()
    return ''
  }
  const chunks: Uint8Array[] = []
  let size = 0
  const end = performance.now() + errorBodyTime
  const iterator = answer.body[Symbol.asyncIterator]()
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), errorBodyTime)
  })
  try {
    while (size < longestErrorBody && performance.now() < end) {
      const next = iterator.next()
      // It fails when the answer is given up below; nobody waits for it then.
      next.catch(() => {})
      const result = await Promise.race([next, late])
      if (result === undefined || result.done === true) break
      chunks.push(result.value)
      size += result.value.length
    }
  } catch (error) {
    // The status alone tells enough of an error whose text breaks off.
    if (isBuilderError(error, 'ISB_CANCELLED')) throw error
  } finally {
    clearTimeout(timer)
    await answer.discard()
    void iterator.return?.()
  }
  return Buffer.concat(chunks).subarray(0, longestErrorBody).toString()
}

function statusCode({ status, url }: Answer, code: string): ErrorCode {
  if (status >= 500 || status === 408 || status === 429 || status < 400) return 'ISB_REGISTRY_UNAVAILABLE'
  const missing =
    status === 404 && (/^(?:MANIFEST_UNKNOWN|NAME_UNKNOWN)$/.test(code) || /\/manifests\//.test(url.pathname))
  return missing ? 'ISB_IMAGE_NOT_FOUND' : 'ISB_REGISTRY_DENIED'
}

function statusHint({ status, headers }: Answer, code: string, subject: Subject): string | undefined {
  const { host, known, accepted } = subject
  const login = `Log in with \`isula-build login ${host}\`, and check the name.`
  if (status === 401 && known === true && accepted === true)
    return 'The user who is logged in may not do this, or there is no such repository; check the name.'
  if (status === 401)
    return known === true ? `The login is not accepted; repeat \`isula-build login ${host}\`.` : login
  if (status === 403 || code === 'DENIED') {
    return known === true
      ? 'The user who is logged in may not do this; check the name and his rights.'
      : login
  }
  if (status === 404) return 'Check the name, the tag and whether the registry is the right one.'
  if (status === 405) return 'The registry does not offer this (it may be a read-only mirror).'
  if (status === 413) return 'The registry, or a proxy before it, limits the size of uploads.'
  if (status === 429)
    return `The registry limits how often it may be asked; wait, or log in with \`isula-build login ${host}\`.`
  if (status === 400 && /HTTPS server/i.test(headers['server'] ?? '')) return 'It speaks HTTPS only.'
  if (status >= 500) return 'The registry has a problem of its own; try again later.'
  return undefined
}
