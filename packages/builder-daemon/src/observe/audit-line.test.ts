import { expect, test } from 'vitest'
import type { AuditEntry } from '../ports/audit.js'
import { auditLine, lossLine } from './audit-line.js'

const entry: AuditEntry = {
  ...{ uid: 1001, gid: 100, pid: 7, exe: '/usr/bin/node', connection: 3 },
  ...{ service: 'isula.builder.v1.Builder', method: 'Build', outcome: 'ok', ms: 12 },
}
const now = Date.UTC(2026, 0, 2, 3, 4, 5, 6)

test('a line holds who did what, and nothing that was not given', () => {
  expect(auditLine(entry, now)).toBe(
    '{"time":"2026-01-02T03:04:05.006Z","uid":1001,"gid":100,"pid":7,"exe":"/usr/bin/node","connection":3,' +
      '"service":"isula.builder.v1.Builder","method":"Build","outcome":"ok","ms":12}\n',
  )
  const full = {
    ...{ ...entry, build: 'b1', images: ['app:1', ''], results: ['f00'], registry: 'r.example' },
    ...{ caps: ['CAP_SYS_ADMIN'], network: 'none', isolation: 'chroot', exe: undefined },
  }
  expect(JSON.parse(auditLine(full, now))).toEqual({
    ...{ time: '2026-01-02T03:04:05.006Z', uid: 1001, gid: 100, pid: 7, connection: 3 },
    ...{ service: 'isula.builder.v1.Builder', method: 'Build', build: 'b1', images: ['app:1'] },
    ...{ results: ['f00'], registry: 'r.example', caps: ['CAP_SYS_ADMIN'], network: 'none' },
    ...{ isolation: 'chroot', outcome: 'ok', ms: 12 },
  })
  expect(lossLine(9, now)).toBe('{"time":"2026-01-02T03:04:05.006Z","lost":9}\n')
})

test('no text of a caller ends the line or reaches a terminal (S64)', () => {
  const hostile = '"}\n{"uid":0}\r\x1b[2J\u009b31m\u2028\u202e\u{1f600}\ud800'
  const line = auditLine({ ...entry, exe: hostile, build: hostile, images: [hostile] }, now)
  expect(line).toMatch(/^[\x20-\x7e]+\n$/)
  expect(JSON.parse(line)).toMatchObject({ exe: hostile, build: hostile, images: [hostile], uid: 1001 })
})

test.each([
  ['https://alice:s3cret@r.example/app:1', 'https://***@r.example/app:1'],
  ['docker://token-s3cret@r.example/app', 'docker://***@r.example/app'],
  ['alice:s3cret@r.example/app:1', '***@r.example/app:1'],
  ['a:s3cret@x@r.example/app', '***@r.example/app'],
  [`alice:s3cret@r.example/app@sha256:${'a'.repeat(64)}`, `***@r.example/app@sha256:${'a'.repeat(64)}`],
  [`app@sha256:${'b'.repeat(64)}`, `app@sha256:${'b'.repeat(64)}`],
  ['https://r.example/app?token=s3cret', 'https://r.example/app'],
  ['r.example:5000/team/app:1.0', 'r.example:5000/team/app:1.0'],
])('%s is recorded as %s', (given, shown) => {
  const line = auditLine({ ...entry, images: [given], registry: given, build: given }, now)
  expect(JSON.parse(line)).toMatchObject({ images: [shown], registry: shown, build: shown })
  expect(line).not.toContain('s3cret')
})

test('a line is bounded, whatever was asked for', () => {
  const many = Array.from({ length: 10_000 }, () => '\u{1f600}'.repeat(100_000 / 10_000 + 1_000))
  const line = auditLine({ ...entry, exe: 'x'.repeat(1 << 20), images: many, caps: many, results: many }, now)
  expect(line.length).toBeLessThan(256 << 10)
  expect(JSON.parse(line).images).toHaveLength(33)
  expect(JSON.parse(line).images[32]).toBe('+9968')
})
