import { closeSync, fsyncSync, openSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Database } from 'better-sqlite3'
import { storeFailure } from './failure.js'
import type { BackupPolicy } from './thread-messages.js'

const backupName = /^(\d{1,15})\.sqlite$/

/** Numbers of the complete backups, newest first. */
export function listBackups(directory: string): number[] {
  return readdirSync(directory)
    .map((name) => backupName.exec(name)?.[1])
    .filter((number) => number !== undefined)
    .map(Number)
    .sort((a, b) => b - a)
}

export function backupPath(directory: string, number: number): string {
  return join(directory, `${number}.sqlite`)
}

function fsyncPath(path: string): void {
  const fd = openSync(path, 'r')
  try {
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}

/** Writes a complete copy under the next number and removes the oldest ones; gives the new number. */
export function writeBackup(db: Database, directory: string, keep: number): number {
  const existing = listBackups(directory)
  const number = (existing[0] ?? 0) + 1
  const temporary = join(directory, 'next.tmp')
  rmSync(temporary, { force: true })
  try {
    db.prepare('VACUUM INTO ?').run(temporary)
    fsyncPath(temporary)
    renameSync(temporary, backupPath(directory, number))
  } finally {
    rmSync(temporary, { force: true })
  }
  fsyncPath(directory)
  for (const old of existing.slice(keep - 1)) rmSync(backupPath(directory, old))
  return number
}

/** Takes backups by policy, between batches. A failed one is tried again by the next occasion. */
export function createBackups(db: Database, policy: BackupPolicy, report: (error: unknown) => void) {
  let pending = 0
  let oldestPending = 0
  let last = Number.NEGATIVE_INFINITY
  let timer: ReturnType<typeof setTimeout> | undefined

  const take = (): number => {
    const number = writeBackup(db, policy.directory, policy.keep)
    pending = 0
    last = performance.now()
    return number
  }

  const takeWhenDue = () => {
    timer = undefined
    if (pending === 0) return
    try {
      take()
    } catch (error) {
      // A backup is a second line of defence: without space for one the store goes on.
      last = performance.now()
      report(storeFailure(error, 'backing up the image database'))
      schedule()
    }
  }

  const schedule = () => {
    if (timer !== undefined) clearTimeout(timer)
    const now = performance.now()
    const wanted = pending >= policy.commits ? now : oldestPending + policy.maxAgeMs
    timer = setTimeout(takeWhenDue, Math.max(0, wanted - now, last + policy.minGapMs - now))
    timer.unref()
  }

  return {
    take,
    /** After every durable commit. */
    committed(): void {
      if (pending++ === 0) oldestPending = performance.now()
      if (pending === 1 || pending === policy.commits) schedule()
    },
    stop(): void {
      if (timer !== undefined) clearTimeout(timer)
    },
  }
}
