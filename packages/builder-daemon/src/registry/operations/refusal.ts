import { registryError } from '../http/error-text.js'
import type { Answer } from '../http/exchange.js'
import { retryAfter } from '../http/retry-after.js'

/** What a registry says when it does not want (OCI distribution spec, "Error Codes"). */
export interface Refusal {
  readonly status: number
  /** E.g. `BLOB_UPLOAD_UNKNOWN`; empty when it gives none. */
  readonly code: string
  /** For a message, e.g. `status 400, DIGEST_INVALID: provided digest did not match`. */
  readonly text: string
  /** Milliseconds to wait, where it says so. */
  readonly retryAfter: number | undefined
}

const bodyLimit = 1 << 20

export async function readRefusal(answer: Answer): Promise<Refusal> {
  const error = registryError((await bodyOf(answer)).toString('utf8'))
  const said = [error?.code ?? '', error?.message ?? ''].filter((part) => part !== '').join(': ')
  return {
    status: answer.status,
    code: error?.code ?? '',
    text: `status ${answer.status}${said === '' ? '' : `, ${said}`}`,
    retryAfter: retryAfter(answer.headers['retry-after'], Date.now()),
  }
}

/** A body that breaks off, or never ends, says nothing; its status has been said. */
async function bodyOf(answer: Answer): Promise<Buffer> {
  try {
    return await answer.bytes(bodyLimit)
  } catch {
    return Buffer.alloc(0)
  }
}
