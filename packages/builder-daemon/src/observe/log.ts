import { redactUrls } from '@isula-build/shared/text/redact.js'
import pino from 'pino'
import type { Logger } from '../ports/logger.js'

const secretKey = /pass(word|wd)?|secret|token|authorization|cookie|credential/i

/** One JSON line per event on stdout; credentials in values never get that far. */
export function createLogger(level: 'debug' | 'info' | 'warn' | 'error'): Logger {
  const sink = pino({ level, base: null, timestamp: pino.stdTimeFunctions.isoTime, messageKey: 'event' })
  const write =
    (method: 'debug' | 'info' | 'warn' | 'error') =>
    (event: string, fields: Record<string, unknown> = {}): void => {
      sink[method](redact(fields) as Record<string, unknown>, event)
    }
  return { debug: write('debug'), info: write('info'), warn: write('warn'), error: write('error') }
}

/** A copy without passwords: values of telling keys and the user part of URLs are replaced. */
export function redact(value: unknown, depth = 0): unknown {
  if (typeof value === 'string') return redactUrls(value)
  if (value instanceof Error) return redact(value.stack ?? value.message)
  if (typeof value !== 'object' || value === null) return value
  if (depth > 6) return '…'
  if (Array.isArray(value)) return value.map((item) => redact(item, depth + 1))
  if (ArrayBuffer.isView(value)) return `<${value.byteLength} bytes>`
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [key, secretKey.test(key) ? '***' : redact(item, depth + 1)]),
  )
}
