import { randomBytes } from 'node:crypto'
import { linkSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { RunOutput } from '../core/solve/environment.js'

/**
 * Output files of one build in its `directory`. A file belongs to its execution and lies beside the directory; each
 * build that watches it has a link of its own, so it lasts until the last of them has removed his.
 */
export function createRunOutput(directory: string): RunOutput {
  return {
    open() {
      const path = join(dirname(directory), `${randomBytes(8).toString('hex')}.run`)
      writeFileSync(path, '', { mode: 0o600, flag: 'wx' })
      return { path, [Symbol.dispose]: () => rmSync(path, { force: true }) }
    },
    adopt(path, step) {
      const own = join(directory, String(step))
      rmSync(own, { force: true })
      linkSync(path, own)
      return own
    },
  }
}
