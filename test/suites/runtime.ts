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
  test.runIf(isolation === 'oci')("the root of a command that runs is its container's alone", async () => {
    const running = fixture.run('sleep 0.7; echo late > /written')
    const mounted = (): boolean =>
      readFileSync(`/proc/${fixture.runtime.launcherPid()}/mountinfo`, 'utf8').includes('/rootfs ')
    await waitFor(() => (mounted() ? true : undefined))
    await waitFor(() => (mounted() ? undefined : true))
    const { processes } = leftovers(fixture.runRoot)
    expect(processes).not.toEqual([])
    const { exit, upper } = await running
    expect(exit).toEqual({ kind: 'exited', code: 0 })
    expect(readFileSync(join(upper, 'written'), 'utf8')).toBe('late\n')
  })
  processSuite(() => fixture)
  confinementSuite(() => fixture)
  mountSuite(() => fixture)
}
