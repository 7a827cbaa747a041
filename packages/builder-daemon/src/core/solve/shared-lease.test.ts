import { expect, test } from 'vitest'
import { createSharedLease } from './shared-lease.js'

test('a lease lasts until the last who needs it has given it back, and ends once', async () => {
  const log: string[] = []
  const lease = createSharedLease({ id: 'lease' }, async () => {
    log.push('released')
  })
  const [build, execution] = [lease.retain(), lease.retain()]
  await build()
  await build()
  expect(log).toEqual([])
  await execution()
  await execution()
  expect(log).toEqual(['released'])
})
