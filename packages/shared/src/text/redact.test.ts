import { expect, test } from 'vitest'
import { processorTime } from '../../../../test/support/processor-time.js'
import { redactUrls } from './redact.js'

test.each([
  ['pull https://u:p@host/x failed', 'pull https://***@host/x failed'],
  ['https://u:p@a and http://t@b:80/', 'https://***@a and http://***@b:80/'],
  ['"https://u:p@a" \'https://u:p@b\'', '"https://***@a" \'https://***@b\''],
  ['https://u:p@ss@host/@x', 'https://***@host/@x'],
  ['https://host/user@x', 'https://host/user@x'],
  ['https://host?a@b', 'https://host?a@b'],
  ['mail a@b.c', 'mail a@b.c'],
  ['://', '://'],
  ['x://@h', 'x://***@h'],
  ['a://b://c@d', 'a://b://***@d'],
  ['', ''],
])('%s is shown as %s', (text, shown) => {
  expect(redactUrls(text)).toBe(shown)
})

test('takes time in proportion to the text', () => {
  const began = processorTime()
  redactUrls('://'.repeat(300_000))
  redactUrls(`://${'a@'.repeat(500_000)}`)
  expect(processorTime() - began).toBeLessThan(2_000)
})
