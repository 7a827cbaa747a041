import { existsSync, readFileSync } from 'node:fs'

export interface AuditLine {
  readonly [field: string]: unknown
  readonly time: string
  readonly uid: number
  readonly method: string
  readonly outcome: string
  readonly connection: number
}

/** Every line of an audit log; fails on one that is no whole line of JSON. */
export function auditLines(path: string): readonly AuditLine[] {
  const text = existsSync(path) ? readFileSync(path, 'utf8') : ''
  if (text !== '' && !text.endsWith('\n')) throw new Error(`${path} ends within a line`)
  return text
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line) as AuditLine)
}
