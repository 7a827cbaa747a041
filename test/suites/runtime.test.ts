import { existsSync } from 'node:fs'
import { getuid } from 'node:process'
import { describe } from 'vitest'
import { runtimeSuite } from './runtime.js'

const root = getuid?.() === 0

describe.skipIf(!root || !existsSync('/usr/sbin/runc'))(
  'isolation oci with runc (needs root and runc)',
  () => {
    runtimeSuite('oci')
  },
)

describe.skipIf(!root)('isolation chroot (needs root)', () => {
  runtimeSuite('chroot')
})
