import { expect, test } from 'vitest'
import { processorTime } from '../../../../test/support/processor-time.js'
import { type BuilderError, isBuilderError } from '../errors/builder-error.js'
import { renderable, renderError } from '../errors/render.js'
import { compileIgnore, parseIgnoreFile } from './ignore.js'
import type { Dockerfile, Instruction } from './instructions.js'
import { parseDockerfile, parseOnbuild } from './parser.js'
import { processWord, processWords } from './words.js'

// Of processor time; on the clock it may be many times that.
const seconds = Number(process.env['ISULA_FUZZ_SECONDS'] ?? '5')
const timeout = seconds * 30_000 + 30_000
/** Always run; a seed that fails is added. */
const regressions: readonly number[] = [1, 2, 3]

const keywords = [
  'FROM a',
  'FROM a AS',
  'ARG',
  'RUN',
  'COPY',
  'ADD',
  'ENV',
  'LABEL',
  'ONBUILD',
  'HEALTHCHECK CMD',
  'CMD',
  'EXPOSE',
  'SHELL',
  'VOLUME',
  'USER',
  'WORKDIR',
  'STOPSIGNAL',
  'ENTRYPOINT',
  'MAINTAINER',
  'onbuild copy',
  'NOPE',
]
/** Correct lines, to be damaged. */
const valid = [
  'FROM --platform=linux/arm64 a:1 AS s%',
  'RUN --mount=type=cache,target=/x a && b',
  'RUN <<EOF cat > /x\n# b\n\tc\nEOF',
  'COPY --from=s0 --chown=1:2 a b /c/',
  'COPY <<EOF <<-X /x/\nq\nEOF\n\tz\n\tX',
  'ADD --unpack=false ["a b", "c"]',
  'ENV a=b \\\n  # c\n\n  d="e f" g=h\\ i',
  'ENV a b c',
  'LABEL "a b"=\'c\' d="$e"',
  'ARG a b="c d"',
  'CMD ["a", "b"]',
  'ENTRYPOINT a b',
  'HEALTHCHECK --interval=5s --retries=2 CMD a',
  'HEALTHCHECK NONE',
  'EXPOSE 80 90-99/udp $p',
  'VOLUME ["/a"]',
  'STOPSIGNAL SIGTERM',
  'SHELL ["/bin/sh", "-c"]',
  'USER a:b',
  'WORKDIR /a',
  'MAINTAINER a',
  'ONBUILD RUN <<EOF\nx\nEOF',
  'ONBUILD COPY a b',
]
// biome-ignore format: one table
const pieces = [
  ' ', '  ', '\t', '\n', '\r\n', '\\\n', '`\n', '\\', '`', '"', "'", '$', '${', '}', ':-', ':+', '?', '#', '##', '%', '/', '//',
  '<<', '<<-', 'EOF', '<<EOF', '<<"EOF"', '\nEOF\n', '[', ']', '["a"]', '["a", "b"]', ',', '=', 'a=b', '--', '--from=x',
  '--link', '--chown=', '# escape=`\n', '# comment\n', '*', '**', '!', '[^a]', 'é', '日本', '\u0301', '😀', '\ufeff', '\u00a0',
  '\u0085', '\u2028', '\x1b', '80', '80-70/udp', 'x'.repeat(300), '{', '@', 'AS', 'CMD', 'NONE', 'abc', 'sha256:0',
]

interface Random {
  below(limit: number): number
}

test(
  'whatever the input, the parser answers with a tree or an error inside the file',
  () => {
    const end = processorTime() + seconds * 1000
    for (const seed of regressions) check(seed)
    for (let seed = 1000; processorTime() < end; seed++) check(seed)
  },
  timeout,
)

test(
  'whatever is repeated, time stays in proportion',
  () => {
    const env = new Map([['a', 'b c']])
    const end = processorTime() + seconds * 200
    for (let seed = 1; processorTime() < end; seed++) {
      const random = randomOf(seed)
      const unit = Array.from({ length: 1 + random.below(3) }, () => piece(random)).join('')
      const text = `FROM a\n${keywords[random.below(keywords.length)]} ${unit.repeat(200_000 / (unit.length + 1))}`
      const start = processorTime()
      attempt(() => parseDockerfile(text, 'f'))
      attempt(() => processWords(text, env))
      expect(processorTime() - start, `seed ${seed}: ${JSON.stringify(unit)}`).toBeLessThan(2000)
    }
  },
  timeout,
)

function check(seed: number): void {
  const random = randomOf(seed)
  const text = random.below(4) === 0 ? noise(random) : file(random)
  try {
    checkDockerfile(random.below(8) === 0 ? mangled(text, random) : text)
    checkWords(text)
    checkIgnore(text)
  } catch (error) {
    throw new Error(`seed ${seed}: ${JSON.stringify(text)}`, { cause: error })
  }
}

function checkDockerfile(source: string | Uint8Array): void {
  const parsed = attempt(() => parseDockerfile(source, 'f'))
  if (isBuilderError(parsed)) {
    checkError(parsed)
    return
  }
  expect(parsed.stages.length).toBeGreaterThan(0)
  for (const instruction of instructions(parsed)) {
    expectInside(parsed.text, instruction.range)
    if (instruction.kind !== 'onbuild' || parsed.escape !== '\\') continue
    const trigger = attempt(() => parseOnbuild(instruction.expression, 'trigger'))
    if (isBuilderError(trigger)) checkError(trigger)
  }
  const unix = attempt(() => parseDockerfile(parsed.text.replaceAll('\r\n', '\n'), 'f'))
  if (!isBuilderError(unix)) expect(withoutText(unix)).toEqual(withoutText(parsed))
}

function checkError(error: BuilderError): void {
  expect(error.code).toMatch(/^ISB_(DOCKERFILE_SYNTAX|UNKNOWN_INSTRUCTION|UNKNOWN_FLAG|LIMIT_EXCEEDED)$/)
  expect(error.message).not.toBe('')
  expect(error.hint).toMatch(/[.\\`?]$/)
  const { source } = error.details
  if (source === undefined) throw new Error(`no source: ${error.message}`)
  expect(source.lines.length).toBe(Math.min(20, source.end.line - source.start.line + 1))
  expect(source.start.column).toBeLessThanOrEqual(source.lines[0]?.length ?? 0)
  for (const line of renderError(renderable(error), { color: false, width: 80 })) {
    expect(line).not.toMatch(/[\p{Cc}\p{Cs}]/u)
  }
}

function checkWords(text: string): void {
  const env = new Map([
    ['a', 'b c'],
    ['EOF', ''],
  ])
  for (const escapeToken of ['\\', '`'] as const) {
    const word = attempt(() => processWord(text, env, { escape: escapeToken }))
    const words = attempt(() => processWords(text, env, { escape: escapeToken }))
    expect(isBuilderError(word)).toBe(isBuilderError(words))
    if (!isBuilderError(words)) expect(words).not.toContain('')
  }
}

function checkIgnore(text: string): void {
  const patterns = parseIgnoreFile(text)
  expect(patterns).toHaveLength(text.split('\n').length)
  const matcher = attempt(() => compileIgnore(patterns))
  if (isBuilderError(matcher)) {
    expect(matcher.code).toBe('ISB_CONTEXT_INVALID')
    return
  }
  for (const path of ['a', 'abc/x', 'EOF', '\xff/a']) {
    const { excluded, pattern, line = 0 } = matcher.match(path, true)
    expect(patterns[line - 1]?.length ?? 0).toBeGreaterThanOrEqual(pattern?.length ?? 0)
    if (!excluded) expect(matcher.mayDescend(path)).toBe(true)
  }
}

function attempt<T>(work: () => T): T | BuilderError {
  try {
    return work()
  } catch (error) {
    if (isBuilderError(error)) return error
    throw error
  }
}

function* instructions(parsed: Dockerfile): Generator<Instruction> {
  yield* parsed.metaArgs
  for (const stage of parsed.stages) yield* stage.instructions
}

function expectInside(text: string, range: Instruction['range']): void {
  const lines = text.split('\n')
  expect(range.end.line).toBeLessThanOrEqual(lines.length)
  expect(range.start.column).toBeLessThan(lines[range.start.line - 1]?.length ?? 0)
  expect(range.end.column).toBeLessThanOrEqual(lines[range.end.line - 1]?.length ?? 0)
  expect(range.start.line).toBeLessThanOrEqual(range.end.line)
}

function withoutText({ text: _, ...rest }: Dockerfile): Omit<Dockerfile, 'text'> {
  return rest
}

function file(random: Random): string {
  let text = random.below(4) === 0 ? '# escape=`\n' : ''
  if (random.below(8) !== 0) text += 'FROM x\n'
  for (let line = random.below(6); line >= 0; line--) text += `${instruction(random, line)}\n`
  return text
}

function instruction(random: Random, index: number): string {
  if (random.below(4) !== 0) {
    const line = (valid[random.below(valid.length)] ?? '').replace('%', String(index))
    const at = random.below(line.length)
    return random.below(3) !== 0 ? line : line.slice(0, at) + piece(random) + line.slice(at + random.below(2))
  }
  let line = keywords[random.below(keywords.length)] ?? ''
  for (let count = random.below(8); count > 0; count--) line += ` ${piece(random)}`
  return line
}

function noise(random: Random): string {
  let text = ''
  for (let count = random.below(40); count > 0; count--) text += piece(random)
  return text
}

function piece(random: Random): string {
  return pieces[random.below(pieces.length)] ?? ''
}

/** As bytes, one of them changed. */
function mangled(text: string, random: Random): Uint8Array {
  const bytes = Buffer.from(text)
  if (bytes.length > 0) bytes[random.below(bytes.length)] = random.below(256)
  return bytes
}

function randomOf(seed: number): Random {
  let state = Math.imul(seed, 2_654_435_761) >>> 0
  const below = (limit: number) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * limit)
  }
  return { below }
}
