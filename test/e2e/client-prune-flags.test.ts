import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { createEdgeBench, type EdgeBench, until } from '../support/edge-bench.js'

let bench: EdgeBench
beforeAll(async () => {
  bench = await createEdgeBench()
})
afterAll(() => bench[Symbol.asyncDispose]())
beforeEach(() => {
  bench.core.calls.length = 0
})

const prune = (...args: readonly string[]) => bench.run(['ctr-img', 'prune', ...args])
const nothing = { all: false, keepBytes: 0, unusedFor: 0, dryRun: false }

test('flags become what the daemon is asked for', async () => {
  await prune('-a', '-f', '--dry-run')
  await prune('--keep-storage', '1.5GB', '--filter', 'until=24h', '--filter', 'until=7d')
  await prune()
  expect(bench.core.calls).toEqual([
    ['prune', { ...nothing, all: true, dryRun: true }],
    ['prune', { ...nothing, keepBytes: 1.5e9, unusedFor: 7 * 86_400_000 }],
    ['prune', nothing],
  ])
})

test('what went is told entry by entry, then in sum', async () => {
  const { status, stdout, stderr } = await prune('--force')
  expect([status, stderr]).toEqual([0, ''])
  expect(stdout).toMatch(
    /^Removed layer l: 2 B, last used \d+ days ago\nRemoved cache mount m: 2 B, last used \d+ days ago\nRemoved 3 cache records of steps that stay on the disk\nRemoved unused downloads: 5 B\nTotal freed: 9 B\n$/,
  )
})

test.each([
  ['y', 1, /^Total freed: 9 B/m],
  ['Yes', 1, /^Total freed: 9 B/m],
  ['', 0, /^Nothing was removed\./m],
  ['no', 0, /^Nothing was removed\./m],
  ['\u0004', 0, /^Nothing was removed\./m],
] as const)('on a terminal the answer %j is obeyed', async (answer, calls, shown) => {
  const running = bench.terminal('client ctr-img prune --all; echo "status $?"')
  await until(
    running,
    'Remove the build cache, cache mounts and unused downloads, but for what images use? [y/N] ',
  )
  running.write(`${answer}\r`)
  const { stdout } = await running.finished
  expect(stdout.replaceAll('\r', '')).toMatch(shown)
  expect(stdout).toContain(`status ${1 - calls}`)
  expect(bench.core.calls).toHaveLength(calls)
})

test('with --force, or for a dry run, a terminal is not asked', async () => {
  const running = bench.terminal('client ctr-img prune --force; client ctr-img prune --dry-run')
  const { stdout } = await running.finished
  expect(stdout).not.toContain('[y/N]')
  expect(bench.core.calls).toHaveLength(2)
})
