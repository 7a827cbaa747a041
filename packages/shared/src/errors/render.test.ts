import { describe, expect, test } from 'vitest'
import { parseDockerfile } from '../dockerfile/parser.js'
import { displayCells } from '../text/display-width.js'
import { BuilderError, isBuilderError } from './builder-error.js'
import { renderable, renderError } from './render.js'

describe('renderError', () => {
  test('draws a frame with carets and ends with the hint', () => {
    expect(renderError(renderable(parseError('FROM a\n\nCOYP a /b\n')), { color: false })).toEqual([
      'error: unknown instruction "COYP"',
      '  --> Dockerfile:3:1',
      '   |',
      ' 3 | COYP a /b',
      '   | ^^^^',
      'hint: Did you mean COPY?',
    ])
  })

  test('shows the step and its last output', () => {
    const error = new BuilderError('ISB_STEP_FAILED', 'exit code 2', {
      step: '[build 3/7] RUN make',
      logTail: ['cc -c x.c', '\x1b[31mfatal\x1b[0m: x.c\r'],
    })
    expect(renderError(renderable(error), { color: false })).toEqual([
      'error: exit code 2',
      '  in [build 3/7] RUN make',
      '  last output:',
      '  | cc -c x.c',
      '  | \\x1b[31mfatal\\x1b[0m: x.c\\x0d',
    ])
  })

  test.each([40, 60, 80, 120])('puts the carets under the token at %s columns', (width) => {
    const prefixes = [
      '',
      '\t\t',
      '日本語 ',
      'e\u0301e\u0301 ',
      '👩 ',
      'a\u202eb ',
      'x'.repeat(50),
      '日'.repeat(200),
    ]
    for (const prefix of prefixes) {
      for (const suffix of ['', ' tail', `${'漢'.repeat(100)}`]) {
        const text = `${prefix}TOKEN${suffix}`
        const start = { line: 7, column: prefix.length }
        const source = { file: 'f', start, end: { line: 7, column: prefix.length + 5 }, lines: [text] }
        const lines = renderError(
          { code: 'ISB_DOCKERFILE_SYNTAX', message: 'm', source },
          { color: false, width },
        )
        const [, , , code = '', carets = ''] = lines
        expect(columnOf(code, code.indexOf('TOKEN')), text).toBe(carets.indexOf('^'))
        expect(carets.endsWith(' ^^^^^')).toBe(true)
        for (const line of lines) expect(columnOf(line, line.length)).toBeLessThanOrEqual(width)
      }
    }
  })

  test('survives a line of a megabyte', () => {
    const lines = renderError(renderable(parseError(`FROM a\nENV ${'a=b '.repeat(250_000)}c`)), {
      color: false,
    })
    expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(120)
    expect(lines.some((line) => line.includes('^'))).toBe(true)
  })

  test('cuts a range of many lines', () => {
    const lines = Array.from({ length: 20 }, (_, index) => `line ${index}`)
    const source = { file: 'f', start: { line: 95, column: 0 }, end: { line: 200, column: 1 }, lines }
    const rendered = renderError({ code: 'ISB_INTERNAL', message: 'm', source }, { color: false })
    expect(rendered[1]).toBe('    --> f:95:1')
    expect(rendered[3]).toBe('  95 | line 0')
    expect(rendered.at(-2)).toBe(' 100 | line 5')
    expect(rendered.at(-1)).toBe('     | …')
  })

  test('colours only when asked', () => {
    const error = renderable(parseError('FROM a\nCOYP'))
    const colored = renderError(error, { color: true }).join('\n')
    expect(colored).toContain('\x1b[1;31merror\x1b[0m')
    const plain = renderError(error, { color: false }).join('\n')
    expect(plain).not.toContain('\x1b')
    expect(colored.replaceAll(/\x1b\[[\d;]*m/g, '')).toBe(plain)
  })

  test('masks passwords everywhere', () => {
    const text = 'ADD https://me:hunter2@host/x /'
    const range = { start: { line: 1, column: 0 }, end: { line: 1, column: 3 } }
    const source = { file: 'f', ...range, lines: [text] }
    const details = { source, step: text, hint: text, logTail: [text] }
    const all = renderError({ code: 'ISB_INTERNAL', message: text, ...details }, { color: false }).join('\n')
    expect(all).not.toContain('hunter2')
    expect(all).toContain('https://me:*******@host')
  })
})

function parseError(text: string): BuilderError {
  try {
    parseDockerfile(text, 'Dockerfile')
  } catch (error) {
    if (isBuilderError(error)) return error
    throw error
  }
  throw new Error('it parses')
}

/** Terminal columns in front of `offset`. */
function columnOf(line: string, offset: number): number {
  return displayCells(line.slice(0, offset)).reduce((sum, cell) => sum + cell.width, 0)
}
