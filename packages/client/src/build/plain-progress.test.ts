import type { CacheReason } from '@isula-build/shared/progress/cache-reason.js'
import type { BuildEvent } from '@isula-build/shared/progress/events.js'
import { expect, test } from 'vitest'
import { plainProgress } from './plain-progress.js'

const hostile = 'is for linux\u001b]0;owned\u0007\nBuild success'

async function shown(show: (view: ReturnType<typeof plainProgress>) => Promise<void>): Promise<string> {
  const parts: Uint8Array[] = []
  await show(plainProgress(async (data) => void parts.push(data)))
  return Buffer.concat(parts).toString('utf8')
}

test('what a transfer says, or a warning, shows no control characters of a registry', async () => {
  const text = await shown(async (view) => {
    await view.show({ kind: 'output', at: 0, step: 0, data: Buffer.from(`${hostile}\n`) })
    await view.show({ kind: 'warning', at: 0, message: hostile })
  })
  const masked = 'is for linux\\x1b]0;owned\\x07\\x0aBuild success'
  expect(text).toBe(`${masked}\n[Warning] ${masked}\n`)
})

test('what a RUN writes comes as it is', async () => {
  const data = Buffer.from([0x1b, 0x5b, 0x6d, 0xff, 0x0a])
  const text = await shown((view) => view.show({ kind: 'output', at: 0, step: 1, data }))
  expect(text).toBe(data.toString('utf8'))
})

test('a step tells why it did not come from the cache, where that is news', async () => {
  const miss = (reason: CacheReason): BuildEvent => ({
    kind: 'step-finished',
    ...{ at: 0, step: 1, outcome: 'done', cache: { status: 'miss', reason } },
  })
  const text = await shown(async (view) => {
    await view.show({ kind: 'output', at: 0, step: 1, data: Buffer.from('unfinished') })
    await view.show(miss({ kind: 'files-changed', paths: ['a', 'b\u001b'], more: 1 }))
    await view.show(miss({ kind: 'never-built' }))
    await view.show(miss({ kind: 'parent-missed', step: 1 }))
    await view.show(miss({ kind: 'no-cache' }))
    await view.show({ kind: 'step-finished', at: 0, step: 2, outcome: 'cached', cache: { status: 'hit' } })
    await view.show({ kind: 'step-skipped', at: 0, step: 3, stage: '', text: 'RUN x' })
  })
  expect(text).toBe(
    'unfinished\n ---> Not from the cache: files-changed [a, b\\x1b, +1]\n ---> Using cache\n',
  )
})
