import { chmodSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { getuid } from 'node:process'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createDaemonBench, type DaemonBench } from '../support/daemon-bench.js'

interface Explanation {
  readonly steps: readonly {
    readonly step: number
    readonly status: 'hit' | 'miss' | 'skipped'
    readonly reason: ({ readonly kind: string } & Readonly<Record<string, unknown>>) | null
  }[]
}

/** `3 miss never-built`, with what the reason names. */
function brief({ steps }: Explanation): readonly string[] {
  return steps.map(({ step, status, reason }) => {
    const { kind, ...named } = reason ?? { kind: '' }
    const details = Object.values(named).map((value) => (Array.isArray(value) ? value.join() : String(value)))
    return [step, status, kind, ...details].filter((word) => word !== '').join(' ')
  })
}

const misses = (lines: readonly string[]): readonly string[] => lines.filter((line) => !line.endsWith(' hit'))

describe.skipIf(getuid?.() !== 0)('a build explains', () => {
  let bench: DaemonBench
  let projects = 0
  beforeAll(async () => {
    bench = await createDaemonBench({ group: 'root' })
    await bench.image('import', bench.baseTar, 'base:1')
  })
  afterAll(() => bench[Symbol.asyncDispose]())

  const build = async (context: string, ...args: readonly string[]): Promise<readonly string[]> =>
    brief(JSON.parse(await bench.image('build', '--explain=json', ...args, context)))

  /** Of a build that fails. */
  const failure = async (context: string, ...args: readonly string[]): Promise<readonly string[]> => {
    const { status, stdout } = await bench.client(['ctr-img', 'build', '--explain=json', ...args, context])
      .ended
    expect(status).not.toBe(0)
    return brief(JSON.parse(stdout))
  }

  /** Files and commands that no other project has. */
  function newProject(base = 'base:1') {
    const id = `project ${++projects}`
    const dockerfile = `FROM ${base} AS build
ARG VERSION=1
ENV LEVEL=$VERSION
WORKDIR /src
COPY src/ ./
RUN echo ${id} > /out && cat main.c >> /out
FROM ${base}
LABEL kind=test
COPY config /etc/config
RUN mkdir "/${id}"
COPY --from=build /out /out
CMD ["cat", "/out"]
`
    const context = bench.context(dockerfile)
    const path = (name: string): string => join(context, name)
    const write = (name: string, text: string): void => writeFileSync(path(name), text)
    mkdirSync(path('src'))
    for (const name of ['src/main.c', 'src/other.c', 'config']) write(name, `${id} ${name}\n`)
    return { id, context, path, write, replace: (from: string, to: string) => edit(from, to) }

    function edit(from: string, to: string): void {
      expect(dockerfile).toContain(from)
      write('Dockerfile', dockerfile.replace(from, to))
    }
  }
  /** One that was built as it is. */
  async function builtProject(base?: string) {
    const project = newProject(base)
    await build(project.context)
    return project
  }

  test('that it built nothing like it before, and nothing when nothing changed', async () => {
    const { context, id } = newProject()
    const first = await build(context)
    expect(first.filter((line) => !line.includes('never-built'))).toEqual(id === 'project 1' ? [] : ['4 hit'])
    expect(misses(await build(context))).toEqual([])
  })

  test('an instruction that reads differently', async () => {
    const { context, replace } = await builtProject()
    replace('&& cat main.c', '&& cat other.c')
    expect(misses(await build(context))).toEqual(['6 miss instruction-changed', '11 miss parent-missed 6'])
    replace('COPY config /etc/config', 'COPY --chmod=600 config /etc/config')
    expect(misses(await build(context))).toEqual([
      '9 miss instruction-changed',
      '10 miss parent-missed 9',
      '11 miss parent-missed 10',
    ])
  })

  test('an instruction that came or went, and none that was only laid out anew', async () => {
    const { context, replace } = await builtProject()
    replace('LABEL kind=test', '# comment\n\nlabel    \\\n kind=test')
    expect(misses(await build(context))).toEqual([])
    replace('LABEL kind=test', 'LABEL kind=test\nENV ADDED=1')
    expect(misses(await build(context))).toEqual(['9 miss instruction-added', '11 miss parent-missed 9'])
    replace('LABEL kind=test', 'LABEL kind=test')
    expect(misses(await build(context))).toEqual([])
  })

  test('an option of the build that decides how a step is executed, by its name', async () => {
    const { context } = await builtProject()
    expect(misses(await build(context, '--network', 'none'))).toEqual([
      '6 miss instruction-changed network',
      '10 miss instruction-changed network',
    ])
    expect(misses(await build(context, '--cap-add', 'CAP_SYS_PTRACE'))).toEqual([
      '6 miss instruction-changed network,capabilities',
      '10 miss instruction-changed network,capabilities',
    ])
    expect(misses(await build(context))).toEqual([])
  })

  test('why a step that failed was executed, and what was not reached', async () => {
    const { context, replace, path } = newProject()
    const failing = () => replace('RUN echo', 'RUN false && echo')
    failing()
    // It never succeeded, so there is nothing that it could be compared with.
    for (let round = 0; round < 2; round++) {
      const lines = await failure(context)
      expect(lines).toContain('6 miss never-built')
      expect(lines).toContain('11 skipped not-reached')
    }
    replace('RUN echo', 'RUN test "$VERSION" = 1 && echo')
    await build(context)
    failing()
    for (let round = 0; round < 2; round++) {
      expect(await failure(context)).toContain('6 miss instruction-changed')
    }
    replace('RUN echo', 'RUN test "$VERSION" = 1 && echo')
    expect(await failure(context, '--build-arg', 'VERSION=2')).toContain('6 miss arg-changed VERSION')
    rmSync(path('config'))
    expect(await failure(context)).toContain('9 miss files-changed 0')
  })

  test('what the target does not need, in its place', async () => {
    const { context, replace } = newProject()
    replace('COPY --from=build /out /out', 'RUN true')
    const unneeded = (lines: readonly string[]): readonly string[] => lines.filter((line) => /^0 /.test(line))
    const first = await build(context)
    expect(first.slice(0, 6)).toEqual(Array.from({ length: 6 }, () => '0 skipped not-needed'))
    expect(first.slice(6)).toHaveLength(6)
    expect(unneeded(first.slice(6))).toEqual([])
    const other = await build(context, '--target', 'build')
    expect(other.slice(0, 6).some((line) => line.startsWith('0'))).toBe(false)
    expect(other.slice(6)).toEqual(Array.from({ length: 6 }, () => '0 skipped not-needed'))
  })

  test('a build arg, and the variables set from it, by its name', async () => {
    const { context, replace } = await builtProject()
    const changed = ['2', '3', '6'].map((step) => `${step} miss arg-changed VERSION`)
    // What the RUN made is the same, so what is copied from it is not copied again.
    expect(misses(await build(context, '--build-arg', 'VERSION=2'))).toEqual(changed)
    expect(misses(await build(context))).toEqual(changed.slice(0, 2))
    replace('ENV LEVEL=$VERSION', 'ENV LEVEL=3')
    expect(misses(await build(context))).toEqual(['3 miss instruction-changed', '6 miss parent-missed 3'])
  })

  test('files that changed, came and went, five at most', async () => {
    const { context, write, path } = await builtProject()
    write('src/main.c', 'changed\n')
    write('src/new.c', 'new\n')
    rmSync(path('src/other.c'))
    expect(misses(await build(context))).toEqual([
      '5 miss files-changed src/main.c,src/new.c,src/other.c 0',
      '6 miss parent-missed 5',
      '11 miss parent-missed 6',
    ])
    for (const name of 'abcdefgh') write(`src/${name}`, name)
    // The next step makes the same of it, and is not compared by how it came to it.
    expect(misses(await build(context))).toEqual([
      '5 miss files-changed src/a,src/b,src/c,src/d,src/e 3',
      '6 miss parent-missed 5',
    ])
  })

  test('a mode without other content', async () => {
    const { context, path } = await builtProject()
    chmodSync(path('config'), 0o755)
    expect(misses(await build(context))).toEqual([
      '9 miss mode-changed config 0',
      '10 miss parent-missed 9',
      '11 miss parent-missed 10',
    ])
  })

  test('a base that is another image now, by both', async () => {
    await bench.image('tag', 'base:1', 'moving:1')
    const { context, id } = await builtProject('moving:1')
    const moved = bench.context(`FROM base:1\nRUN echo ${id} > /etc/moved\n`)
    await bench.image('build', '-q', '-t', 'moving:1', moved)
    const lines = misses(await build(context))
    const ids = '[0-9a-f]{64} [0-9a-f]{64}'
    expect(lines[0]).toMatch(new RegExp(`^1 miss base-changed ${ids}$`))
    const [, , from, to] = lines[0]?.split(' ').slice(1) ?? []
    expect(from).not.toBe(to)
    const others = lines.filter((line) => !line.includes('base-changed'))
    expect(others).toEqual([
      '4 miss parent-missed 1',
      '5 miss parent-missed 4',
      '6 miss parent-missed 5',
      '9 miss parent-missed 7',
      '10 miss parent-missed 9',
      '11 miss parent-missed 10',
    ])
  })

  test('that it was told to use no cache, or none for a stage', async () => {
    const { context } = await builtProject()
    expect(misses(await build(context, '--no-cache-filter', 'BUILD'))).toEqual(
      [2, 3, 4, 5, 6].map((step) => `${step} miss no-cache`),
    )
    expect(misses(await build(context, '--no-cache'))).toEqual(
      [2, 3, 4, 5, 6, 8, 9, 10, 11, 12].map((step) => `${step} miss no-cache`),
    )
    expect(misses(await build(context))).toEqual([])
  })

  test('that what it had was removed', async () => {
    const { context } = await builtProject()
    const before = Date.now()
    for (const image of (await bench.image('images', '-q')).split('\n')) {
      if (image !== '') await bench.image('rm', image).catch(() => undefined)
    }
    await bench.prune()
    await bench.image('import', bench.baseTar, 'base:1')
    const lines = misses(await build(context))
    const evicted = lines.filter((line) => line.includes(' evicted '))
    for (const line of evicted) expect(Number(line.split(' ').at(-1))).toBeGreaterThanOrEqual(before)
    expect(evicted.map((line) => Number(line.split(' ')[0]))).toEqual([4, 5, 6, 9, 10, 11])
    // The base was imported anew, with the time of that in it.
    expect(lines.length - evicted.length).toBeLessThanOrEqual(2)
    expect(misses(await build(context))).toEqual([])
  })

  test('nothing of what follows a step that was done again with the same result', async () => {
    const { id, context, replace } = await builtProject()
    replace(`RUN mkdir "/${id}"`, `RUN true && mkdir "/${id}"`)
    expect(misses(await build(context))).toEqual(['10 miss instruction-changed'])
    replace(`> /out && cat main.c >> /out`, `> /out; cat main.c >> /out`)
    expect(misses(await build(context))).toEqual(['6 miss instruction-changed'])
    expect(misses(await build(context))).toEqual([])
  })

  test('nothing of a copy from a stage that came to the same files in another way', async () => {
    const { context, replace } = await builtProject()
    replace('WORKDIR /src', 'RUN echo other > /unrelated\nWORKDIR /src')
    const lines = misses(await build(context))
    expect(lines).toEqual([
      '4 miss instruction-added',
      '5 miss parent-missed 4',
      '6 miss parent-missed 5',
      '7 miss parent-missed 6',
    ])
  })
})
