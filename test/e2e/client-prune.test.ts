import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { root } from '../../scripts/lib/setup.mjs'
import { type ClientBench, createClientBench, tool } from '../support/client-bench.js'

let bench: ClientBench
beforeAll(async () => {
  bench = await createClientBench()
})
afterAll(() => bench[Symbol.asyncDispose]())
beforeEach(() => void bench.ok(['prune', '--all']))

interface Explained {
  readonly instruction: string
  readonly status: string
  readonly reason: { readonly kind: string } | null
}

let builds = 0
/** A build of which one layer of this many MiB is nobody's but the cache's. */
function buildWithCache(mebibytes: number, ...more: readonly string[]): string {
  const input = [
    'FROM base:1 AS work',
    `RUN head -c ${mebibytes << 20} /dev/urandom > /big && echo ${builds++}`,
    ...more.map((line) => `RUN ${line}`),
    'FROM base:1',
    'COPY --from=work /etc/group /copied',
    '',
  ].join('\n')
  bench.ok(['build', '-t', 'pruned', '-f', '-', '.'], { input })
  return input
}

const layers = (): readonly string[] => readdirSync(join(bench.daemon.data, 'layers'))
const sizeOf = (line: string): string => / ([0-9.e+]+ [KMGT]?B)(?:,|$)/.exec(line)?.[1] ?? ''

async function emptyTrash(): Promise<void> {
  const trash = join(bench.daemon.data, 'trash')
  for (let rounds = 0; readdirSync(trash).length > 0; rounds++) {
    if (rounds === 1000) throw new Error('the trash does not get empty')
    await sleep(50)
  }
}

test('a dry run shows exactly what goes', async () => {
  buildWithCache(3)
  const before = layers()
  const shown = bench.ok(['prune', '--dry-run']).trimEnd().split('\n')
  expect(layers()).toEqual(before)
  expect(shown[0]).toMatch(
    /^Would remove layer [0-9a-f]{32}: 3\.1[0-9] MB, last used less than a minute ago$/,
  )
  expect(shown.at(-1)).toMatch(/^Would free: 3\.1[0-9] MB$/)
  const gone = bench.ok(['prune', '--force']).trimEnd().split('\n')
  expect(
    gone.map((line) => line.replace('Removed', 'Would remove').replace('Total freed', 'Would free')),
  ).toEqual(shown)
  const names = gone.flatMap((line) => /layer ([0-9a-f]{32})/.exec(line)?.[1] ?? [])
  expect(names).toHaveLength(1)
  expect(new Set(layers())).toEqual(new Set(before.filter((id) => !names.includes(id))))
  expect(bench.ok(['prune', '--dry-run'])).toBe('Would free: 0 B\n')
})

test('what it says is freed is what the disk gets back', async () => {
  buildWithCache(8, 'for i in $(seq 300); do echo $i > /small-$i; done')
  await emptyTrash()
  const use = () => Number(tool('du', ['-s', '-B1', bench.daemon.data]).split('\t')[0])
  const before = use()
  const said = Number.parseFloat(sizeOf(bench.ok(['prune']).trimEnd().split('\n').at(-1) ?? ''))
  await emptyTrash()
  const freed = (before - use()) / 1e6
  expect(said).toBeGreaterThan(9)
  // The database is a part of what is measured.
  expect(Math.abs(said - freed)).toBeLessThan(0.15)
})

test('what a step gave has to be done again after it, whatever images use', () => {
  const input = buildWithCache(1)
  const cached = () => bench.ok(['build', '-f', '-', '.'], { input }).split(' ---> Using cache').length - 1
  expect(cached()).toBeGreaterThanOrEqual(2)
  expect(bench.ok(['prune'])).toMatch(/^Removed \d+ cache records? of steps that stay on the disk$/m)
  const { steps } = JSON.parse(bench.ok(['build', '--explain=json', '-f', '-', '.'], { input }))
  const statuses = (steps as readonly Explained[]).map(({ instruction, status, reason }) => [
    instruction.split(' ')[0],
    reason?.kind ?? status,
  ])
  expect(statuses).toEqual([
    ...[
      ['FROM', 'hit'],
      ['RUN', 'evicted'],
      ['FROM', 'hit'],
      ['COPY', 'evicted'],
    ],
  ])
})

test('--keep-storage leaves the younger, --filter what was used since', () => {
  buildWithCache(2)
  buildWithCache(4)
  expect(bench.ok(['prune', '--dry-run']).match(/^Would remove layer/gm)).toHaveLength(2)
  expect(bench.ok(['prune', '--filter', 'until=1h'])).toBe('Total freed: 0 B\n')
  expect(bench.ok(['prune', '--keep-storage', '10MB'])).toBe('Total freed: 0 B\n')
  const gone = bench.ok(['prune', '--keep-storage', '5MB'])
  expect(gone).toMatch(/^Removed layer [0-9a-f]+: 2\.\d+ MB.*\nTotal freed: 2\.\d+ MB\n$/)
})

test('cache mounts go with --all, by the names that Dockerfiles give them', () => {
  const input = 'FROM base:1\nRUN --mount=type=cache,id=deps,target=/c head -c 1048576 /dev/zero > /c/x\n'
  bench.ok(['build', '-f', '-', '.'], { input })
  expect(bench.ok(['prune'])).not.toContain('cache mount')
  expect(bench.ok(['prune', '--all'])).toMatch(/^Removed cache mount deps: 1\.05 MB, last used/m)
  const mounts = join(bench.daemon.data, 'cache-mounts', '0')
  expect(existsSync(mounts) ? readdirSync(mounts) : []).toEqual([])
  const look = 'FROM base:1\nRUN --mount=type=cache,id=deps,target=/c ls /c | wc -l\n'
  expect(bench.ok(['build', '-f', '-', '.'], { input: look })).toMatch(/^0$/m)
})

test('what a build holds stays', async () => {
  const input =
    'FROM base:1 AS work\nRUN --mount=type=cache,id=held,target=/c echo x > /c/x; echo x > /x\nRUN --mount=type=cache,id=held,target=/c until [ -e /c/end ]; do sleep 0.1; done; cat /c/x /x\nFROM base:1\nCOPY --from=work /x /x\n'
  const before = layers()
  const client = join(root, 'bin/isula-build')
  const running = spawn(client, ['--host', bench.daemon.host, 'ctr-img', 'build', '-f', '-', '.'], {
    stdio: ['pipe', 'ignore', 'ignore'],
  })
  const ended = once(running, 'exit')
  running.stdin.end(input)
  for (let rounds = 0; layers().length === before.length; rounds++) {
    if (rounds === 1000) throw new Error('the build gets nowhere')
    await sleep(20)
  }
  await sleep(300)
  expect(bench.ok(['prune', '--all'])).not.toMatch(/^Removed (?:layer|cache mount)/m)
  const mounts = join(bench.daemon.data, 'cache-mounts', '0')
  for (const name of readdirSync(mounts)) writeFileSync(join(mounts, name, 'end'), '')
  expect(await ended).toEqual([0, null])
  expect(bench.ok(['prune', '--all'])).toMatch(/^Removed cache mount held/m)
})

test.each([
  [['--filter', 'age=1h'], 'invalid filter "age=1h"'],
  [['--filter', 'until=soon'], 'invalid filter "until=soon"'],
  [['--keep-storage', 'much'], 'invalid argument "much" for "--keep-storage" flag'],
  [['everything'], 'accepts no arguments'],
])('%j is refused', (args, message) => {
  const { status, stdout, stderr } = bench.run(['prune', ...args])
  expect([status, stdout]).toEqual([1, ''])
  expect(stderr).toContain(message)
})
