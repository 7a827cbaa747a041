import { redactUrls } from '@isula-build/shared/text/redact.js'
import type { AuditEntry } from '../ports/audit.js'

/** Characters of one value, and values of one list: a line has an end, whatever the caller wrote. */
const maxText = 256
const maxPath = 4096
const maxValues = 32

/** One line of the audit log, `now` in milliseconds since the epoch. */
export function auditLine(entry: AuditEntry, now: number): string {
  const { uid, gid, pid, exe, connection, service, method, outcome, ms } = entry
  return jsonLine({
    time: timeOf(now),
    ...{ uid, gid, pid },
    exe: exe === undefined ? undefined : short(exe, maxPath),
    ...{ connection, service, method },
    build: textOf(entry.build),
    images: listOf(entry.images),
    results: listOf(entry.results),
    registry: textOf(entry.registry),
    caps: listOf(entry.caps),
    network: textOf(entry.network),
    isolation: textOf(entry.isolation),
    ...{ outcome, ms },
  })
}

/** Stands for `lines` that could not be kept until the file took them. */
export function lossLine(lines: number, now: number): string {
  return jsonLine({ time: timeOf(now), lost: lines })
}

function timeOf(now: number): string {
  return new Date(now).toISOString()
}

/** ASCII only: no text of a caller ends a line, or does anything to the terminal that shows it. */
function jsonLine(fields: Readonly<Record<string, unknown>>): string {
  const text = JSON.stringify(fields).replace(
    /[^\x20-\x7e]/g,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
  return `${text}\n`
}

function textOf(text: string | undefined): string | undefined {
  return text === undefined || text === '' ? undefined : short(withoutCredentials(text), maxText)
}

function listOf(values: readonly string[] | undefined): readonly string[] | undefined {
  const given = (values ?? []).filter((value) => value !== '')
  if (given.length === 0) return undefined
  const shown = given.slice(0, maxValues).map((value) => short(withoutCredentials(value), maxText))
  return given.length > maxValues ? [...shown, `+${given.length - maxValues}`] : shown
}

/**
 * A reference has no user, no query and no `@` but before a digest; whoever writes one there may have
 * written a password.
 */
function withoutCredentials(text: string): string {
  const [address = ''] = redactUrls(text.slice(0, maxPath)).split(/[?#]/, 1)
  const digest = /@[a-z0-9+._-]+:[0-9a-f]{32,}$/i.exec(address)
  const name = digest === null ? address : address.slice(0, digest.index)
  const at = name.lastIndexOf('@')
  const clean = at === -1 || name.includes('://') ? name : `***${name.slice(at)}`
  return `${clean}${digest?.[0] ?? ''}`
}

function short(text: string, max: number): string {
  return text.length <= max ? text : `${text.slice(0, max)}...`
}
