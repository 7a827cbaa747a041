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
