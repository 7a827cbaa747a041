import { describe, expect, test } from 'vitest'
import type { CopyVertex } from './plan.js'
import { copies, historyTexts, planFailure, planLines } from './plan-fixture.js'

async function copy(...lines: string[]): Promise<CopyVertex> {
  const vertex = copies(await planLines(['FROM scratch', ...lines])).at(-1)
  if (vertex === undefined) throw new Error('no COPY was planned')
  return vertex
}

const checksum = `sha256:${'ab'.repeat(32)}`

describe('COPY and ADD', () => {
  test.each([
    ['/x', 'x', false],
    ['/x/', 'x', true],
    ['x', 'w/x', false],
    ['.', 'w', true],
    ['./', 'w', true],
    ['/', '', true],
    ['../..', '', true],
    ['/a/../b/.', 'b', true],
  ])('the destination %s below /w is %s', async (written, destination, intoDirectory) => {
    expect(await copy('WORKDIR /w', `COPY a ${written}`)).toMatchObject({ destination, intoDirectory })
  })

  test('several sources may go to what is a directory already', async () => {
    expect(await copy('COPY a b /d')).toMatchObject({
      intoDirectory: false,
      inputs: [{ pattern: 'a' }, { pattern: 'b' }],
    })
  })

  test('a source that is named again is copied once, as the last of them', async () => {
    const patterns = async (line: string): Promise<readonly string[]> =>
      (await copy('ARG x=a', line)).inputs.map((input) => ('pattern' in input ? input.pattern : input.kind))
    expect(await patterns('COPY a b a c $x /d/')).toEqual(['b', 'c', 'a'])
    expect(await patterns('COPY *.c a *.c /d/')).toEqual(['a', '*.c'])
    expect(await patterns('ADD --unpack=false a b a /d/')).toEqual(['b', 'a'])
    for (const line of ['ADD a a /d/', 'COPY --parents a a /d/', 'COPY --exclude=*.c a a /d/']) {
      expect(await patterns(line), line).toEqual(['a', 'a'])
    }
    expect(await patterns('ADD http://h/a http://h/a /d/')).toEqual(['url', 'url'])
    const plan = await planLines(['FROM scratch', 'COPY a a /d/'])
    expect(historyTexts(plan)).toEqual(['COPY a a /d/ # buildkit'])
  })

  test('where the first source decides what the destination becomes, only neighbours are one', async () => {
    const patterns = async (line: string): Promise<readonly string[]> =>
      (await copy(line)).inputs.map((input) => ('pattern' in input ? input.pattern : input.kind))
    expect(await patterns('COPY a a b b a /d')).toEqual(['a', 'b', 'a'])
    expect(await patterns('COPY a b a /')).toEqual(['b', 'a'])
    expect(await patterns('COPY a b a .')).toEqual(['b', 'a'])
  })

  test('no instruction has more than 5000 sources', async () => {
    const line = (count: number): string => `COPY ${'a '.repeat(count)}/d/`
    expect((await copy(line(5000))).inputs).toHaveLength(1)
    const error = await planFailure(['FROM scratch', line(5001)])
    expect(error).toMatchObject({ code: 'ISB_LIMIT_EXCEEDED', hint: expect.stringMatching(/wildcards/) })
    expect(error.message).toContain('5001 sources, at most 5000')
    expect(error.details.source?.start.line).toBe(2)
  })

  test('names become bytes, flags are expanded', async () => {
    const vertex = await copy(
      'ARG o=1:2 m=u+rX',
      'COPY --chown=$o --chmod=$m --link --parents --exclude=*.ö ü /d/',
    )
    expect(vertex).toMatchObject({
      chown: '1:2',
      chmod: 'u+rX',
      link: true,
      parents: true,
      excludes: ['*.Ã¶'],
      inputs: [{ kind: 'context', context: '', pattern: 'Ã¼', unpack: false }],
    })
  })

  test('ADD extracts local archives and keeps downloaded ones, unless told', async () => {
    expect((await copy('ADD a.tar /')).inputs).toMatchObject([{ unpack: true }])
    expect((await copy('ADD --unpack=false a.tar /')).inputs).toMatchObject([{ unpack: false }])
    expect((await copy('ADD https://h/a.tar /')).inputs).toEqual([
      { kind: 'url', url: 'https://h/a.tar', checksum: undefined, unpack: false },
    ])
    expect((await copy('ADD --unpack=true https://h/a.tar /')).inputs).toMatchObject([{ unpack: true }])
  })

  test('a checksum is expanded and checked', async () => {
    expect((await copy(`ARG s=${checksum}`, 'ADD --checksum=$s http://h/a /')).inputs).toMatchObject([
      { checksum },
    ])
    for (const line of [
      `ADD --checksum=${checksum} a /`,
      `ADD --checksum=${checksum} http://h/a http://h/b /`,
      'ADD --checksum=md5:abc http://h/a /',
    ]) {
      expect((await planFailure(['FROM scratch', line])).message).toContain('checksum')
    }
  })

  test('COPY takes no URL, and nothing takes a git repository', async () => {
    expect((await planFailure(['FROM scratch', 'COPY http://h/a /'])).message).toContain('URL')
    for (const source of ['git@github.com:a/b.git', 'https://u:p@h/a.git#v1', 'git://h/a', 'ssh://h/a']) {
      const error = await planFailure(['FROM scratch', `ADD ${source} /`])
      expect(error.code).toBe('ISB_UNSUPPORTED')
      expect(error.message).not.toContain('u:p@')
    }
  })

  test('here-documents are files, expanded unless their name is quoted', async () => {
    const lines = ['COPY <<a <<"b" /d/', 'x=$V "q"', 'a', 'x=$V', 'b']
    expect((await copy('ARG V=1', ...lines)).inputs).toEqual([
      { kind: 'inline', name: 'a', content: 'x=1 "q"\n' },
      { kind: 'inline', name: 'b', content: 'x=$V\n' },
    ])
  })

  test.each(['0755', '7777', 'u+x', 'a=rwX,go-w', '=', 'u=g', 'ug+rs+t'])(
    '--chmod=%s is good',
    async (mode) => {
      expect((await copy(`COPY --chmod=${mode} a /b`)).chmod).toBe(mode)
    },
  )

  test.each(['bogus', '10000', '08', 'u', 'x+', 'u+x,', '0o7', '-1'])(
    '--chmod=%s is refused',
    async (mode) => {
      const error = await planFailure(['FROM scratch', `COPY --chmod=${mode} a /b`])
      expect(error.message).toContain('chmod')
      expect(error.details.source?.start.line).toBe(2)
    },
  )

  test.each(['a:b:c', ':g', '"a b"'])('--chown=%s is refused', async (owner) => {
    const error = await planFailure(['FROM scratch', `ARG o=${owner}`, 'COPY --chown=$o a /b'])
    expect(error.message).toContain('chown')
  })

  test('history names what was copied, without credentials', async () => {
    const plan = await planLines([
      'FROM scratch',
      'COPY --chown=1 a b /d/',
      'ADD https://user:secret@h/f /',
      'COPY <<x /',
      'x',
    ])
    expect(historyTexts(plan)).toEqual([
      'COPY --chown=1 a b /d/ # buildkit',
      'ADD https://h/f / # buildkit',
      'COPY <<x / # buildkit',
    ])
  })

  test('scratch as a source is an empty file system', async () => {
    expect((await copy('COPY --from=scratch a /b')).inputs).toMatchObject([{ kind: 'vertex', vertex: null }])
  })
})
