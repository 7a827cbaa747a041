import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll } from 'vitest'
import type { Logger } from '../../packages/builder-daemon/src/ports/logger.js'
import { bundleLayerWorker } from '../../packages/builder-daemon/src/workers/test-worker.js'

/** The layer worker, bundled into a directory for all tests of a file, and a log for its pools. */
export function useLayerWorker() {
  let directory = ''
  let entry = new URL('file:///')
  const events: string[] = []
  const record = (event: string): void => void events.push(event)
  const log: Logger = { debug: record, info: record, warn: record, error: record }

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'isula-build-workers-'))
    entry = await bundleLayerWorker(directory)
  })
  afterAll(() => rmSync(directory, { recursive: true, force: true }))

  return {
    get directory() {
      return directory
    },
    get entry() {
      return entry
    },
    /** What was logged. */
    events,
    log,
  }
}
