import { redactUrls } from '@isula-build/shared/text/redact.js'

const longest = 200

/** What a stranger wrote, fit for one line of a message: no controls, no credentials in URLs, about 200 characters. */
export function shown(text: string): string {
  const line = redactUrls(text.slice(0, 4096))
    // Also what reverses or hides text (bidirectional controls, zero width).
    .replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}\s]+/gu, ' ')
    .trim()
  return line.length > longest ? `${[...line].slice(0, longest).join('')}…` : line
}

/**
 * Code and message of the error document of the distribution spec (`{"errors": [{"code", "message", "detail"}]}`), of
 * OAuth2 (`error`, `error_description`) and of what registries have made of them. Undefined: there is none.
 */
export function registryError(body: string): { readonly code: string; readonly message: string } | undefined {
  let document: unknown
  try {
    document = JSON.parse(body)
  } catch {
    return undefined
  }
  if (!isRecord(document)) return undefined
  const first = Array.isArray(document['errors']) ? document['errors'][0] : document
  if (typeof first === 'string') return { code: '', message: shown(first) }
  if (!isRecord(first)) return undefined
  const code = text(first['code']) || text(first['error'])
  const message = text(first['message']) || text(first['error_description']) || text(first['details'])
  return code === '' && message === '' ? undefined : { code: shown(code), message: shown(message) }
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function text(value: unknown): string {
  return typeof value === 'string' ? value : typeof value === 'number' ? String(value) : ''
}
