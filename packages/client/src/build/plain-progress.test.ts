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
