// biome-ignore-all lint/suspicious/noTemplateCurlyInString: shell variables, not template strings
import { describe, expect, test } from 'vitest'
import { body, errorOf, marked, one } from '../../../../test/support/parsed-dockerfile.js'
import { processorTime } from '../../../../test/support/processor-time.js'
import { parseDockerfile, parseOnbuild } from './parser.js'

describe('FROM', () => {
  test('makes stages with lower-case names', () => {
    const parsed = parseDockerfile(
      'ARG V=1\nFROM --platform=$P a:$V AS Build\nFROM 1b as 0-x_.\\y\nfrom c',
      'f',
    )
    expect(parsed.metaArgs).toMatchObject([{ args: [{ key: 'V', value: '1' }] }])
    expect(parsed.stages.map(({ name, from }) => [name, from.image, from.name, from.platform])).toEqual([
      ['build', 'a:$V', 'Build', '$P'],
      ['0-x_.\\y', '1b', '0-x_.\\y', undefined],
      [undefined, 'c', undefined, undefined],
    ])
  })

  test.each([
    ['FROM', 'FROM'],
    ['FROM a as', 'as'],
    ['FROM a b c', 'b c'],
    ['FROM a AS b c', 'AS b c'],
    ['FROM a AS -b', '-b'],
    ['FROM a AS b/c', 'b/c'],
    [`FROM a AS ${'x'.repeat(65)}`, 'x'.repeat(65)],
    ['FROM a AS b\nFROM c AS B', 'B'],
    ['ENV a=b\nFROM a', 'ENV'],
    ['FROM --plaftorm=x a', '--plaftorm=x'],
  ])('rejects %s', (text, token) => {
    expect(marked(text)).toBe(token)
  })

  test('accepts names of 64 characters and the reserved ones', () => {
    expect(parseDockerfile(`FROM a AS ${'x'.repeat(64)}\nFROM b AS scratch`, 'f').stages).toHaveLength(2)
  })

  test('must exist', () => {
    expect(() => parseDockerfile('', 'f')).toThrow(/empty/)
    expect(() => parseDockerfile('# only\n\n', 'f')).toThrow(/no instructions/)
    expect(() => parseDockerfile('ARG a', 'f')).toThrow(/no FROM/)
  })
})

describe('unknown words', () => {
  test('get a suggestion', () => {
    const instruction = errorOf(() => body('copi a b'))
    expect(instruction).toMatchObject({ code: 'ISB_UNKNOWN_INSTRUCTION', hint: 'Did you mean copy?' })
    const flag = errorOf(() => body('COPY --form=x a b'))
    expect(flag).toMatchObject({ code: 'ISB_UNKNOWN_FLAG', hint: 'Did you mean --from?' })
    expect(errorOf(() => body('RUN a &&\n b')).hint).toMatch(/end that line with \\/)
  })

  test('are not instructions because of Unicode case rules', () => {
    expect(marked('FROM a\nU\u017fER x')).toBe('U\u017fER')
  })
})

describe('COPY and ADD', () => {
  test('read every flag', () => {
    const flags = '--from=x --chown="a b:c" --chmod=0755 --link --parents=True --exclude=*.md --exclude=\\*.x'
    expect(one(`COPY ${flags} -- --a b c`)).toMatchObject({
      kind: 'copy',
      sources: ['--a', 'b'],
      destination: 'c',
      from: 'x',
      chown: 'a b:c',
      chmod: '0755',
      link: true,
      parents: true,
      excludes: ['*.md', '*.x'],
    })
    expect(one('ADD --checksum=sha256:0 --keep-git-dir --unpack=false a b')).toMatchObject({
      kind: 'add',
      checksum: 'sha256:0',
      keepGitDir: true,
      unpack: false,
      link: false,
      from: undefined,
    })
    expect(one('ADD a b')).toMatchObject({ unpack: undefined })
  })

  test.each([
    ['COPY', 'COPY'],
    ['ADD x', 'ADD'],
    ['COPY --from x y z', '--from'],
    ['COPY --link= x y', '--link='],
    ['COPY --link=yes x y', '--link=yes'],
    ['COPY --from=a --from=b x y', '--from=b'],
    ['ADD --from=a x y', '--from=a'],
    ['COPY --checksum=a x y', '--checksum=a'],
    ['COPY [1, "b"]', '[1, "b"]'],
    ['COPY ["a\\u0000", "b"]', '["a\\u0000", "b"]'],
  ])('reject %s', (text, token) => {
    expect(marked(`FROM a\n${text}`)).toBe(token)
  })

  test('take JSON, and words when it is none', () => {
    expect(one('COPY ["a b", "c"] rest')).toMatchObject({ sources: ['a b'], destination: 'c' })
    expect(one('COPY ["a", b]')).toMatchObject({ sources: ['["a",'], destination: 'b]' })
    expect(one('COPY "" /x')).toMatchObject({ sources: ['""'] })
  })
})

describe('commands', () => {
  test.each<[string, object]>([
    ['CMD ["a", "b c"]', { form: 'exec', args: ['a', 'b c'] }],
    ['CMD [ ]', { form: 'exec', args: [] }],
    ['CMD ["\\ud83d\\ude00", "\\ud800"]', { form: 'exec', args: ['😀', '\ufffd'] }],
    ['CMD ["a"] trailing', { form: 'exec', args: ['a'] }],
    ["CMD ['a']", { form: 'shell', line: "['a']" }],
    ['CMD ["a"', { form: 'shell', line: '["a"' }],
    ['CMD echo  a  ', { form: 'shell', line: 'echo  a' }],
    ['CMD', { form: 'shell', line: '' }],
  ])('%s', (text, command) => {
    expect(one(text)).toMatchObject({ command })
  })

  test('RUN keeps its flags as written', () => {
    expect(
      one('RUN --mount=type=cache,target=$X --mount=type=tmpfs,target=/t --network=none a'),
    ).toMatchObject({
      mounts: ['type=cache,target=$X', 'type=tmpfs,target=/t'],
      network: 'none',
      security: undefined,
      command: { line: 'a' },
    })
    expect(marked('FROM a\nRUN --network=nope x')).toBe('--network=nope')
    expect(marked('FROM a\nRUN --security=nope x')).toBe('--security=nope')
    expect(marked('FROM a\nRUN []')).toBe('[]')
    expect(marked('FROM a\nCMD --x y')).toBe('--x')
  })

  test('SHELL needs a JSON array with something in it', () => {
    expect(one('SHELL ["a", "-c"]')).toMatchObject({ shell: ['a', '-c'] })
    expect(marked('FROM a\nSHELL a')).toBe('a')
    expect(marked('FROM a\nSHELL []')).toBe('[]')
    expect(marked('FROM a\nSHELL')).toBe('SHELL')
  })
})

describe('ENV, LABEL and ARG', () => {
  test('keep words as written', () => {
    expect(one(`LABEL "a b"='c d' e=f\\ g h= i="x=\\"y" j=k\\`)).toMatchObject({
      pairs: [
        { key: '"a b"', value: "'c d'" },
        { key: 'e', value: 'f\\ g' },
        { key: 'h', value: '' },
        { key: 'i', value: '"x=\\"y"' },
        { key: 'j', value: 'k' },
      ],
    })
    expect(one('ENV a  b "c" $d ')).toMatchObject({
      pairs: [{ key: 'a', value: 'b "c" $d', noDelimiter: true }],
    })
    expect(one('ARG a b=${c:-d e="f g"')).toMatchObject({
      args: [
        { key: 'a', value: undefined },
        { key: 'b', value: '${c:-d' },
        { key: 'e', value: '"f g"' },
      ],
    })
  })

  test.each([
    ['ENV', 'ENV'],
    ['ENV a', 'a'],
    ['ENV =x', '=x'],
    ['LABEL a=b c', 'c'],
    ['ARG', 'ARG'],
    ['ARG a =b', '=b'],
    ['ENV --x=y a=b', '--x=y'],
    ['ARG --x a', '--x'],
    ['ENV a=b \\\n # comment\n  c \\\n d=e', 'c'],
  ])('reject %s', (text, token) => {
    expect(marked(`FROM a\n${text}`)).toBe(token)
  })
})

describe('HEALTHCHECK', () => {
  test('reads Go durations', () => {
    const flags = '--interval=1m30s --timeout=1.5s --start-period=0 --start-interval=500ms --retries=3'
    expect(one(`HEALTHCHECK ${flags} cmd ["a"]`)).toMatchObject({
      test: { none: false, command: { form: 'exec', args: ['a'] } },
      interval: 90e9,
      timeout: 1.5e9,
      startPeriod: undefined,
      startInterval: 500e6,
      retries: 3,
    })
    expect(one('HEALTHCHECK none')).toMatchObject({ test: { none: true } })
  })

  test.each([
    ['HEALTHCHECK', 'HEALTHCHECK'],
    ['HEALTHCHECK CMD', 'CMD'],
    ['HEALTHCHECK CMD []', 'CMD'],
    ['HEALTHCHECK NONE x', 'x'],
    ['HEALTHCHECK TEST x', 'TEST'],
    ['HEALTHCHECK --interval=5 CMD x', '--interval=5'],
    ['HEALTHCHECK --interval=1us CMD x', '--interval=1us'],
    ['HEALTHCHECK --timeout=-1s CMD x', '--timeout=-1s'],
    [`HEALTHCHECK --timeout=${'9'.repeat(50)}h CMD x`, `--timeout=${'9'.repeat(50)}h`],
    ['HEALTHCHECK --retries=-1 CMD x', '--retries=-1'],
    ['HEALTHCHECK --retries=1.5 CMD x', '--retries=1.5'],
  ])('rejects %s', (text, token) => {
    expect(marked(`FROM a\n${text}`)).toBe(token)
  })
})

describe('the other instructions', () => {
  test('are read', () => {
    expect(one('EXPOSE 90/UDP 80 8000-8010 $P "1"')).toMatchObject({
      ports: ['"1"', '$P', '80', '8000-8010', '90/UDP'],
    })
    expect(one('VOLUME ["/a", " /b "]')).toMatchObject({ paths: ['/a', '/b'] })
    expect(one('VOLUME /a\t/b')).toMatchObject({ paths: ['/a', '/b'] })
    expect(one('STOPSIGNAL sigrtmin+3')).toMatchObject({ signal: 'sigrtmin+3' })
    expect(one('STOPSIGNAL SIG$S')).toMatchObject({ signal: 'SIG$S' })
    expect(one('WORKDIR /a b ')).toMatchObject({ path: '/a b' })
    expect(one('USER\ta:b')).toMatchObject({ user: 'a:b' })
    expect(one('MAINTAINER Me <me@x>')).toMatchObject({ name: 'Me <me@x>' })
  })

  test.each([
    ['EXPOSE', 'EXPOSE'],
    ['EXPOSE 80 90-80', '90-80'],
    ['EXPOSE 65536', '65536'],
    ['EXPOSE 80/icmp', '80/icmp'],
    ['EXPOSE x:80', 'x:80'],
    ['VOLUME', 'VOLUME'],
    ['VOLUME [""]', '[""]'],
    ['VOLUME []', 'VOLUME'],
    ['STOPSIGNAL SIGNOPE', 'SIGNOPE'],
    ['STOPSIGNAL 0', '0'],
    ['STOPSIGNAL SIGKILL SIGTERM', 'SIGKILL SIGTERM'],
    ['WORKDIR', 'WORKDIR'],
    ['USER --x y', '--x'],
  ])('reject %s', (text, token) => {
    expect(marked(`FROM a\n${text}`)).toBe(token)
  })
})

describe('ONBUILD', () => {
  test('keeps the trigger as written', () => {
    expect(one('onbuild  run echo a \\\n # x\n  b ')).toMatchObject({ expression: 'run echo a   b ' })
  })

  test.each([
    ['ONBUILD', 'ONBUILD'],
    ['ONBUILD ONBUILD RUN x', 'ONBUILD'],
    ['ONBUILD from x', 'from'],
    ['ONBUILD MAINTAINER x', 'MAINTAINER'],
    ['ONBUILD NOSUCH x', 'NOSUCH'],
    ['ONBUILD COPY \\\n  --nope x y', '--nope'],
  ])('rejects %s', (text, token) => {
    expect(marked(`FROM a\n${text}`)).toBe(token)
  })

  test('triggers are one instruction', () => {
    expect(parseOnbuild('ENV a=b', 'base')).toMatchObject({ kind: 'env' })
    expect(() => parseOnbuild('ENV a=b\nUSER x', 'base')).toThrow(/one instruction/)
    expect(() => parseOnbuild('', 'base')).toThrow(/empty/)
    expect(() => parseOnbuild('ONBUILD RUN x', 'base')).toThrow(/not allowed/)
  })
})

test('input of a megabyte takes less than a second', () => {
  const inputs = [
    `FROM a\nRUN ${'x'.repeat(1_000_000)}`,
    `FROM a\nRUN x\\\n${'a \\\n'.repeat(100_000)}b`,
    `FROM a\nENV a=b \\\n${'#\n\n'.repeat(300_000)}`,
    `FROM a\nRUN <<E\n${'\n'.repeat(1_000_000)}E`,
    `FROM a\nRUN ${'<<'.repeat(500_000)}`,
    `FROM a\nCMD ${'['.repeat(1_000_000)}`,
    `# syntax=a${' '.repeat(1_000_000)}b\nFROM a`,
  ]
  for (const input of inputs) {
    const start = processorTime()
    parseDockerfile(input, 'f')
    expect(processorTime() - start, input.slice(0, 30)).toBeLessThan(1000)
  }
})

test('many here-documents of one line take time in proportion', () => {
  const names = Array.from({ length: 40_000 }, (_, i) => `E${i}`)
  const bodies = names.map((name) => `x\n${name}`).join('\n')
  const began = processorTime()
  const copy = one(`COPY ${names.map((name) => `<<${name}`).join(' ')} /c/\n${bodies}\n`)
  expect(processorTime() - began).toBeLessThan(3000)
  expect(copy.kind === 'copy' && copy.heredocs.length).toBe(40_000)
})

test('more than 25,000 instructions are refused at the first that is too many', () => {
  const most = `FROM a\n${'COPY a /\n'.repeat(24_999)}`
  expect(parseDockerfile(most, 'f').stages[0]?.instructions).toHaveLength(24_999)
  const error = errorOf(() => parseDockerfile(`${most}${'COPY a /\n'.repeat(80_000)}`, 'f'))
  expect([error.code, error.details.source?.start.line]).toEqual(['ISB_LIMIT_EXCEEDED', 25_001])
})
