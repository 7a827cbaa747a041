import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { bundleEntry } from '../support/bundled-worker.js'
import { leftovers } from '../support/runtime-leftovers.js'
import { makeRuntime, type RuntimeFixture, waitFor } from '../support/temporary-runtime.js'
import { confinementSuite } from './runtime-confinement.js'
import { mountSuite } from './runtime-mounts.js'
import { processSuite } from './runtime-process.js'

export const launcherSource = 'packages/builder-daemon/src/workers/launcher.ts'

/** What every way of isolating a RUN has to do. Needs root. */
export function runtimeSuite(isolation: 'oci' | 'chroot'): void {
  let fixture: RuntimeFixture
  beforeAll(async () => {
    const { pathname } = await bundleEntry(launcherSource)
    fixture = await makeRuntime({ launcherEntry: pathname, isolation })
  })
  afterAll(async () => {
    await fixture[Symbol.asyncDispose]()
  })
  // What runs under chroot has no namespace of its own to keep a root in.
  if (isolation === 'oci') rootSuite(() => fixture)
  processSuite(() => fixture)
  confinementSuite(() => fixture)
  mountSuite(() => fixture)
}

function rootSuite(get: () => RuntimeFixture): void {
  test("the root of a command that runs is its container's alone", async () => {
    const running = get().run('sleep 0.7; echo late > /written')
    const mounted = (): boolean =>
      readFileSync(`/proc/${get().runtime.launcherPid()}/mountinfo`, 'utf8').includes('/rootfs ')
    await waitFor(() => leftovers(get().runRoot).processes[0])
    await waitFor(() => (mounted() ? undefined : true))
    // Not because it has ended.
    expect(leftovers(get().runRoot).processes).not.toEqual([])
    const { exit, upper } = await running
    expect(exit).toEqual({ kind: 'exited', code: 0 })
    expect(readFileSync(join(upper, 'written'), 'utf8')).toBe('late\n')
  })
}
