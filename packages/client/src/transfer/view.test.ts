import { expect, test } from 'vitest'
import { transferView } from './view.js'

const blob = (letter: string): string => `sha256:${letter.repeat(64)}`

function shown(work: (view: ReturnType<typeof transferView>) => void, width = 80, drawable = true): string {
  let text = ''
  const add = (more: string): void => {
    text += more
  }
  work(
    transferView({
      print: (line) => add(`${line}\n`),
      draw: drawable ? add : undefined,
      width: () => width,
    }),
  )
  return text
}

test('lines come as they are, and nothing is drawn where nothing can be', () => {
  const text = shown(
    (view) => {
      view.line('Copying blob a')
      view.progress(blob('a'), 5, 10)
      view.line('Storing signatures')
      view.end()
    },
    80,
    false,
  )
  expect(text).toBe('Copying blob a\nStoring signatures\n')
})

test('what a line quotes of a registry changes nothing on the terminal', () => {
  const text = shown((view) => view.line('is for linux\u001b]0;owned\u0007\nPull success'), 80, false)
  expect(text).toBe('is for linux\\x1b]0;owned\\x07\\x0aPull success\n')
})

test('a terminal shows how far it is, below the lines', () => {
  const text = shown((view) => {
    view.progress(blob('a'), 5_000_000, 10_000_000)
    view.progress(blob('b'), 0, 0)
    view.line('a line')
    view.progress(blob('a'), 10_000_000, 10_000_000)
    view.end()
  })
  expect(text).toBe(
    [
      '5 MB / 10 MB  aaaaaaaaaaaa 50%',
      '\r\u001b[K5 MB / 10 MB  aaaaaaaaaaaa 50%',
      '\r\u001b[Ka line\n',
      '10 MB / 10 MB',
      '\r\u001b[K',
    ].join(''),
  )
})

test('a narrow terminal is not overrun', () => {
  const text = shown((view) => {
    for (const letter of 'abcdef') view.progress(blob(letter), 1, 3)
  }, 20)
  for (const line of text.split('\r\u001b[K')) expect(line.length).toBeLessThan(20)
})
