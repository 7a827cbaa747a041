import { expect, test } from 'vitest'
import { displayLine } from './display-line.js'

test.each([
  ['Copying blob sha256:ab skipped: größer, 日本', 'Copying blob sha256:ab skipped: größer, 日本'],
  ['os "linux\u001b]0;owned\u0007\nPull success"', 'os "linux\\x1b]0;owned\\x07\\x0aPull success"'],
  ['a\rb\u009bc\u202ed\u2028e\ud800', 'a\\x0db\\x9bc\\u202ed\\u2028e\\ud800'],
  ['at https://user:secret@h/x', 'at https://***@h/x'],
])('%j is shown as %j, also when it is shown again', (text, shown) => {
  expect(displayLine(text)).toBe(shown)
  expect(displayLine(shown)).toBe(shown)
})
