import { createHash } from 'node:crypto'
import { expect, test, vi } from 'vitest'
import { uncontrolled } from '../job-control.js'
import { helpWithSlots } from './help.js'
import { createPipeline } from './pipeline.js'
import { slotBytes } from './slots.js'
import { sharesTarSums } from './tar-sum.js'

vi.mock('../../system/sha256.js', async (load) => ({
  ...(await load<object>()),
  openSha256: () => undefined,
}))

test('where no sum can be shared, the thread of the job hashes, and there are no marks', () => {
  expect(sharesTarSums()).toBe(false)
  const told: unknown[] = []
  const whole = createHash('sha256')
  const control = {
    ...uncontrolled,
    help(memory: SharedArrayBuffer): void {
      let left = 3
      const check = (): void => {
        left -= 1
        if (left < 0) throw new Error('enough')
      }
      expect(() => helpWithSlots(memory, () => undefined, { check })).toThrow('enough')
    },
  }
  using pipeline = createPipeline(() => undefined, control)
  for (let index = 0; index < 12; index += 1) {
    const bytes = Buffer.alloc(slotBytes / 2, `${index}`)
    whole.update(bytes)
    pipeline.collector.append(bytes)
    pipeline.mark((state) => told.push(state))
  }
  expect(pipeline.collector.finish()).toEqual({
    diffId: `sha256:${whole.digest('hex')}`,
    tarSize: 6 * slotBytes,
  })
  expect(told).toEqual(Array.from({ length: 12 }, () => undefined))
})
