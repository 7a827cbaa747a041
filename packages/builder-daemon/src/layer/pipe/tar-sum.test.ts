import { createHash } from 'node:crypto'
import { expect, test, vi } from 'vitest'
import { uncontrolled } from '../job-control.js'
import { helpWithSlots } from './help.js'
import { createPipeline } from './pipeline.js'
import { slotBytes } from './slots.js'
import { sharesTarSums } from './tar-sum.js'

/** Threads find out each for itself. */
const helper = vi.hoisted(() => ({ isAtWork: false, hasSha: false }))
vi.mock('../../system/sha256.js', async (load) => {
  const real = await load<typeof import('../../system/sha256.js')>()
  return { ...real, openSha256: () => (helper.isAtWork && helper.hasSha ? real.openSha256() : undefined) }
})

test.each([false, true])(
  'where the job cannot share the sum, its thread hashes, and there are no marks; helpers could: %s',
  (hasSha) => {
    helper.hasSha = hasSha
    expect(sharesTarSums()).toBe(false)
    const told: unknown[] = []
    const whole = createHash('sha256')
    const control = {
      ...uncontrolled,
      help(memory: SharedArrayBuffer): void {
        let left = 8
        const check = (): void => {
          left -= 1
          if (left < 0) throw new Error('enough')
        }
        helper.isAtWork = true
        expect(() => helpWithSlots(memory, () => undefined, { check })).toThrow('enough')
        helper.isAtWork = false
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
  },
)
