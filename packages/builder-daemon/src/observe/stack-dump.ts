import { readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import process from 'node:process'

/** Dumps of earlier signals that stay. */
const kept = 5
const dumpName = /^stack-[0-9TZ.-]+\.log$/

/**
 * Writes Node's diagnostic report (stacks, heap, handles of the event loop) to
 * `<directory>/stack-<time>.log` and removes all but the newest five. Gives its path.
 */
export function dumpStacks(directory: string, now: Date): string {
  // Reverse look-ups of peers would block the event loop.
  Object.assign(process.report, { excludeNetwork: true })
  const report = process.report.getReport() as Record<string, unknown>
  // They may hold the credentials of a proxy.
  delete report['environmentVariables']
  const path = join(directory, `stack-${now.toISOString().replaceAll(':', '')}.log`)
  writeFileSync(path, `${JSON.stringify(report, undefined, 2)}\n`, { mode: 0o600 })
  const names = readdirSync(directory).filter((name) => dumpName.test(name))
  for (const name of names.sort().slice(0, -kept)) rmSync(join(directory, name), { force: true })
  return path
}
