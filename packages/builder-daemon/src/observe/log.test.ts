import { expect, test } from 'vitest'
import { redact } from './log.js'

test('replaces credentials in URLs and telling keys, at any depth', () => {
  const fields = {
    url: 'failed: https://alice:s3cret@registry.example/v2/',
    nested: [{ password: 'hunter2', note: 'http://token@host/x' }],
    authorization: 'Basic abc',
  }
  const text = JSON.stringify(redact(fields))
  for (const secret of ['s3cret', 'hunter2', 'token@', 'Basic abc', 'alice'])
    expect(text).not.toContain(secret)
  expect(text).toContain('https://***@registry.example/v2/')
})

test.each(['x', 'http://', 'a:', '://'])('takes time in proportion to a long text of %j', (unit) => {
  // As the command of a RUN that is too long for the kernel.
  const began = performance.now()
  redact({ error: unit.repeat(1_000_000 / unit.length) })
  expect(performance.now() - began).toBeLessThan(2000)
})
