import { describe, expect, test } from 'vitest'
import { body, errorOf, marked, one } from '../../../../test/support/parsed-dockerfile.js'
import type { CopyInstruction, RunInstruction } from './instructions.js'
import { parseDockerfile, parseOnbuild } from './parser.js'

describe('lines', () => {
  test('join continuations and drop comments and empty lines inside', () => {
    const run = one('RUN a \\  \n# comment\n\n   # another\n  b\\\n\tc\n')
    expect(run.text).toBe('RUN a   b\tc')
    expect(run.range).toEqual({ start: { line: 2, column: 0 }, end: { line: 7, column: 2 } })
  })

  test('are the same with CRLF, also in here-documents', () => {
    const text = '# escape=`\nFROM a AS b\nENV x=y `\n  z=w\nRUN <<-EOF\n\tx\n\n\tEOF\nCMD ["a"]\n'
    const { text: _lf, ...lf } = parseDockerfile(text, 'f')
    const { text: _crlf, ...crlf } = parseDockerfile(text.replaceAll('\n', '\r\n'), 'f')
    expect(crlf).toEqual(lf)
  })

  test('end a continuation at the end of the file', () => {
    expect(one('ENV a=b \\')).toMatchObject({ pairs: [{ key: 'a', value: 'b' }] })
    expect(one('RUN x \\\n# last')).toMatchObject({ command: { line: 'x' } })
  })

  test('are not continued by two escape characters', () => {
    expect(body('RUN a\\\\\nUSER b').map((instruction) => instruction.kind)).toEqual(['run', 'user'])
  })

  test('need an instruction', () => {
    expect(marked('FROM a\n\\\n\n')).toBe('\\')
  })
})

describe('directives', () => {
  test('are read in front of everything else', () => {
    const parsed = parseDockerfile(
      '#syntax = docker/dockerfile:1 \n# ESCAPE=`\n# check=skip=all\nFROM a',
      'f',
    )
    expect(parsed.directives).toEqual({ syntax: 'docker/dockerfile:1', escape: '`', check: 'skip=all' })
    expect(parsed.escape).toBe('`')
  })

  test.each([
    ['behind an empty line', '\n# escape=`\nFROM a'],
    ['behind a comment', '# comment\n# escape=`\nFROM a'],
    ['behind an unknown one', '# other=1\n# escape=`\nFROM a'],
    ['behind an instruction', 'FROM a\n# escape=`'],
  ])('are comments %s', (_, text) => {
    expect(parseDockerfile(text, 'f')).toMatchObject({ escape: '\\', directives: {} })
  })

  test('fail when given twice or with a bad value', () => {
    expect(marked('# escape=`\n# escape=\\\nFROM a')).toBe('# escape=\\')
    expect(marked('# syntax=a\n# syntax=a\nFROM a')).toBe('# syntax=a')
    expect(marked('# escape=x\nFROM a')).toBe('# escape=x')
  })
})

describe('here-documents', () => {
  test.each([
    ['RUN <<EOF', 'EOF', true],
    ['RUN <<"EOF"', 'EOF', false],
    ["RUN <<E'O'F", 'EOF', false],
    ['RUN 3<< EOF cat', 'EOF', true],
    ['RUN cat <<EOF > /x', 'EOF', true],
    ['RUN <<$EOF', '$EOF', true],
    ["RUN <<'a b'", 'a b', false],
    ["RUN <<it\\'s", "it's", true],
    ['RUN <<file.txt', 'file.txt', true],
  ])('%s is announced', (line, name, expands) => {
    const run = one(`${line}\n# kept\n\n "x" \\\n${name}`) as RunInstruction
    expect(run.heredocs).toMatchObject([
      { name, expand: expands, chomp: false, content: '# kept\n\n "x" \\\n' },
    ])
    expect(run.text).toBe(line)
    expect(run.range.end).toEqual({ line: 6, column: name.length })
  })

  test.each([
    'RUN echo $((1<<2))',
    'RUN cat <<< "x"',
    'RUN "<<EOF"',
    "RUN echo it's <<EOF",
    'RUN ["<<EOF"]',
    'CMD <<EOF',
    'ENV a=<<EOF',
    'RUN <<',
    'RUN <<-',
  ])('%s announces none', (line) => {
    const [instruction, ...more] = body(`${line}\nUSER x`)
    expect(more).toHaveLength(1)
    expect(instruction).not.toHaveProperty('heredocs.0')
  })

  test('come several to a line', () => {
    const copy = one('COPY <<A file <<-B /x/\nB\nA\n\t\tb\n\tB') as CopyInstruction
    expect(copy).toMatchObject({ sources: ['file'], destination: '/x/' })
    expect(copy.heredocs).toMatchObject([
      { name: 'A', content: 'B\n', original: '<<A' },
      { name: 'B', content: 'b\n', chomp: true },
    ])
  })

  test('belong to the trigger of an ONBUILD', () => {
    const onbuild = one("ONBUILD COPY <<'A' /x\n$y\nA\n")
    expect(onbuild).toMatchObject({ expression: "COPY <<'A' /x\n$y\nA" })
    const trigger = parseOnbuild("COPY <<'A' /x\n$y\nA", 'base')
    expect(trigger).toMatchObject({ kind: 'copy', heredocs: [{ content: '$y\n', expand: false }] })
  })

  test('must end, and be usable', () => {
    expect(marked('FROM a\nRUN cat <<EOF\nx\n EOF\n')).toBe('<<EOF')
    expect(marked('FROM a\nCOPY x <<EOF\nEOF')).toBe('x <<EOF')
    expect(errorOf(() => body('COPY << EOF /x\nEOF')).message).toMatch(/"EOF" is not a source/)
  })
})
