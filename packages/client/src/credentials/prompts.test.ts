import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { expect, test } from 'vitest'
import { createPrompts } from './prompts.js'

function source(pieces: readonly (string | Buffer)[], isTTY: boolean) {
  const modes: boolean[] = []
  return {
    modes,
    isTTY,
    setRawMode: (raw: boolean) => modes.push(raw),
    async *[Symbol.asyncIterator]() {
      for (const piece of pieces) yield Buffer.from(piece as string)
    },
  }
}

function prompts(pieces: readonly (string | Buffer)[], isTTY = true) {
  const input = source(pieces, isTTY)
  let shown = ''
  const made = createPrompts(input, (text) => {
    shown += text
  })
  return { ...made, modes: input.modes, shown: () => shown }
}

test('a terminal is asked for a line, then for one that it does not show', async () => {
  const { line, hidden, modes, shown } = prompts(['us', 'er\n', 'pass', 'word\r'])
  expect(await line('Username: ')).toBe('user')
  expect(modes).toEqual([])
  expect(await hidden('Password: ')).toBe('password')
  expect(modes).toEqual([true, false])
  expect(shown()).toBe('Username: Password: \n')
})

test.each([
  ['a key taken back', ['abc\u007f\u007fd\r'], 'ad'],
  ['a character of several bytes taken back', ['pä€\u007f\r'], 'pä'],
  ['everything taken back', ['wrong\u0015right\r'], 'right'],
  ['control keys that mean nothing', ['a\u001b\u0001b\r'], 'ab'],
  ['the end after some text', ['abc\u0004'], 'abc'],
  ['the end', ['\u0004'], undefined],
  ['a hang-up', ['abc'], undefined],
])('typed without being shown: %s', async (_, pieces, answer) => {
  const { hidden, modes } = prompts(pieces)
  expect(await hidden('')).toBe(answer)
  expect(modes).toEqual([true, false])
})

test('a character may come in pieces', async () => {
  const euro = Buffer.from('€')
  const { hidden } = prompts([euro.subarray(0, 1), euro.subarray(1), '\r'])
  expect(await hidden('')).toBe('€')
})

test('Ctrl-C leaves the terminal as it was', async () => {
  const { hidden, modes, shown } = prompts(['abc\u0003'])
  const error = await hidden('Password: ').catch((reason: unknown) => reason)
  expect(isBuilderError(error, 'ISB_CANCELLED')).toBe(true)
  expect(modes).toEqual([true, false])
  expect(shown()).toBe('Password: \n')
})

test('what is no terminal holds one answer per line', async () => {
  const { line, hidden, modes } = prompts(['user\r\npassword\nrest'], false)
  expect(await line('')).toBe('user')
  expect(await hidden('')).toBe('password')
  expect(await line('')).toBe('rest')
  expect(await line('')).toBeUndefined()
  expect(modes).toEqual([])
})

test('an answer has an end', async () => {
  const endless = Array.from({ length: 3 }, () => 'x'.repeat(65_536))
  await expect(prompts(endless).hidden('')).rejects.toThrow('the answer is too long')
  await expect(prompts(endless, false).line('')).rejects.toThrow('the answer is too long')
})
