import { afterAll, beforeAll } from 'vitest'
import { bundleEntry } from '../support/bundled-worker.js'
import { makeRuntime, type RuntimeFixture } from '../support/temporary-runtime.js'
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
  processSuite(() => fixture)
  confinementSuite(() => fixture)
  mountSuite(() => fixture)
}
