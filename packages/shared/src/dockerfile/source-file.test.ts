import { describe, expect, test } from 'vitest'
import { isBuilderError } from '../errors/builder-error.js'
import {
  maxSourceBytes,
  positionAt,
  readSource,
  sourceRange,
  sourceRangeAt,
  tokenRange,
} from './source-file.js'

describe('readSource', () => {
  test('drops a byte order mark without moving columns', () => {
    const source = readSource(Buffer.from('\ufeffFROM a\nRUN b'), 'f')
    expect(source.text).toBe('FROM a\nRUN b')
    expect(positionAt(source, 5)).toEqual({ line: 1, column: 5 })
  })

  test('names the line of a byte that is not UTF-8', () => {
    const bytes = Buffer.concat([
      Buffer.from('FROM a\nLABEL x=é\ufffd'),
      Buffer.from([0xe9]),
      Buffer.from('y\n'),
    ])
    expect(sourceOf(() => readSource(bytes, 'f'), /line 2 is not valid UTF-8/)).toMatchObject({
      start: { line: 2, column: 10 },
      lines: ['LABEL x=é\ufffd\ufffdy'],
    })
    expect(sourceOf(() => readSource('FROM a\nRUN \ud800', 'f'), /line 2 is not valid UTF-8/)).toMatchObject({
      start: { line: 2, column: 4 },
    })
  })

  test('recognises UTF-16', () => {
    sourceOf(() => readSource(Buffer.from('\ufeffFROM a', 'utf16le'), 'f'), /UTF-16/)
  })

  test('rejects NUL and more than 1 MiB', () => {
    expect(sourceOf(() => readSource('FROM a\n\0', 'f'), /NUL/)).toMatchObject({
      start: { line: 2, column: 0 },
    })
    expect(readSource(Buffer.alloc(maxSourceBytes, 0x0a), 'f').text).toHaveLength(maxSourceBytes)
    expect(() => readSource(Buffer.alloc(maxSourceBytes + 1, 0x0a), 'f')).toThrow(/1 MiB is allowed/)
    expect(() => readSource('é'.repeat(maxSourceBytes / 2 + 1), 'f')).toThrow(/1 MiB is allowed/)
  })
})

describe('source ranges', () => {
  const parsed = { file: 'f', text: 'FROM a\r\nRUN x \\\r\n  y\r\n' }

  test('carry their lines without terminators', () => {
    const source = readSource(parsed.text, 'f')
    expect(sourceRangeAt(source, 8, 20)).toEqual({
      file: 'f',
      start: { line: 2, column: 0 },
      end: { line: 3, column: 3 },
      lines: ['RUN x \\', '  y'],
    })
  })

  test('find a token inside an instruction', () => {
    const range = { start: { line: 2, column: 0 }, end: { line: 3, column: 3 } }
    expect(tokenRange(parsed, range, 'y')).toMatchObject({ start: { line: 3, column: 2 }, lines: ['  y'] })
    expect(tokenRange(parsed, range, 'a')).toEqual(sourceRange(parsed, range))
  })

  test('carry at most twenty lines, and no endless ones', () => {
    const source = readSource(`${'x\n'.repeat(50)}${'y'.repeat(100_000)}`, 'f')
    expect(sourceRangeAt(source, 0, 90).lines).toHaveLength(20)
    const [line = ''] = sourceRangeAt(source, 105, 110).lines
    expect(line.length).toBeLessThan(5000)
    expect(line.startsWith('yyyyyyyyyy')).toBe(true)
  })
})

function sourceOf(work: () => unknown, message: RegExp) {
  try {
    work()
  } catch (error) {
    if (!isBuilderError(error, 'ISB_DOCKERFILE_SYNTAX')) throw error
    expect(error.message).toMatch(message)
    return error.details.source
  }
  throw new Error('nothing was thrown')
}
