import { appendFileSync } from 'node:fs'
import { env } from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import { expect } from 'vitest'
import type { DaemonBench } from './daemon-bench.js'
import { seededRandom } from './random-choices.js'

/** What users can see: names with the images they point to, and all images. */
export interface Visible {
  readonly names: Readonly<Record<string, string>>
  readonly images: readonly string[]
}

export async function visible(bench: DaemonBench): Promise<Visible> {
  const listed = await bench.images()
  const names = listed.flatMap(({ id, names: own }) => own.map((name) => [name, id] as const))
  return { names: Object.fromEntries(names.sort()), images: listed.map(({ id }) => id).sort() }
}

/** One operation that is killed again and again. */
export interface Victim<T> {
  readonly name: string
  /** Brings the store into the state in which the operation does all its work. */
  prepare(round: number): Promise<void>
  /** Starts it; what it resolves with tells what was acknowledged. It may not reject. */
  start(round: number): Promise<T>
  /** Fails when an acknowledged part is not visible, or another one is visible in part. */
  judge(outcome: T, before: Visible, after: Visible): void
  /** The outcome was a complete success. */
  succeeded(outcome: T): boolean
}

export interface KillCounts {
  readonly operation: string
  readonly seed: number
  readonly durationMs: number
  readonly kills: number
  /** Rounds in which everything was acknowledged before the kill. */
  readonly acknowledged: number
  /** Rounds after which something of the operation was visible. */
  readonly changed: number
  readonly slowestRestartMs: number
}

// ISULA_SEED and ISULA_KILLS choose other rounds; ISULA_KILL_REPORT names a file for their counts.
export const killSeed = Number(env['ISULA_SEED'] ?? 20_261)
export const killCount = Number(env['ISULA_KILLS'] ?? 10)
/**
 * Milliseconds, from exec to the answer to `version`. Far from what it takes, so that a busy machine does not
 * fail; near enough to notice a start that waits for something to time out.
 */
const restartBudget = 8000

/** Milliseconds. */
async function undisturbed<T>(bench: DaemonBench, victim: Victim<T>, round: number): Promise<number> {
  await victim.prepare(round)
  const before = await visible(bench)
  const began = performance.now()
  const outcome = await victim.start(round)
  const ms = Math.round(performance.now() - began)
  expect(victim.succeeded(outcome), `${victim.name} fails undisturbed: ${JSON.stringify(outcome)}`).toBe(true)
  victim.judge(outcome, before, await visible(bench))
  return ms
}

/**
 * Measures the operation, then kills the daemon as often at moments chosen uniformly over that
 * time, each time followed by a restart and all checks.
 */
export async function killRounds<T>(
  bench: DaemonBench,
  victim: Victim<T>,
  count = killCount,
): Promise<KillCounts> {
  const durationMs = Math.max(await undisturbed(bench, victim, -1), await undisturbed(bench, victim, -2))
  const random = seededRandom(killSeed)
  let acknowledged = 0
  let changed = 0
  let slowest = 0
  for (let round = 0; round < count; round++) {
    const delay = random.next(durationMs)
    try {
      await victim.prepare(round)
      const before = await visible(bench)
      const running = victim.start(round)
      await sleep(delay)
      await bench.kill()
      const ended = await running
      if (victim.succeeded(ended)) acknowledged++
      const restart = await bench.restart()
      slowest = Math.max(slowest, restart)
      expect(restart).toBeLessThan(restartBudget)
      const after = await visible(bench)
      if (!isDeepStrictEqual(before, after)) changed++
      victim.judge(ended, before, after)
      await bench.expectSound()
    } catch (error) {
      throw new Error(`${victim.name}: seed ${killSeed}, round ${round}, killed after ${delay} ms`, {
        cause: error,
      })
    }
  }
  const counts: KillCounts = {
    operation: victim.name,
    seed: killSeed,
    durationMs,
    kills: count,
    acknowledged,
    changed,
    slowestRestartMs: Math.round(slowest),
  }
  const report = env['ISULA_KILL_REPORT']
  if (report !== undefined) appendFileSync(report, `${JSON.stringify(counts)}\n`)
  return counts
}

/** The names and images after an operation that gives `name` to an image, new or not. */
export function namedOrUntouched(name: string, before: Visible, after: Visible): void {
  const target = after.names[name]
  if (target === before.names[name]) {
    expect(after).toEqual(before)
    return
  }
  if (target === undefined) throw new Error(`${name} is lost`)
  expect(after.names).toEqual({ ...before.names, [name]: target })
  expect(after.images).toEqual([...new Set([...before.images, target])].sort())
}
