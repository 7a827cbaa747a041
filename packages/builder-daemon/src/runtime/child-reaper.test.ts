import { spawnSync } from 'node:child_process'
import { getuid } from 'node:process'
import { expect, test } from 'vitest'
import { bundleEntry } from '../../../../test/support/bundled-worker.js'

test.skipIf(getuid?.() !== 0)('a child is never taken for a stray that had its pid before', async () => {
  const { pathname } = await bundleEntry('test/support/reused-pid.ts')
  const { stdout, stderr } = spawnSync('unshare', [
    ...['--pid', '--fork', '--mount-proc', '--kill-child'],
    ...[process.execPath, pathname],
  ])
  expect(stderr.toString()).toBe('')
  expect(JSON.parse(stdout.toString())).toEqual({ isRunning: true, status: { kind: 'exited', code: 3 } })
})
