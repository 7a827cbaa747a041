import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type ClientBench, createClientBench } from '../support/client-bench.js'

let bench: ClientBench
beforeAll(async () => {
  bench = await createClientBench()
})
afterAll(() => bench[Symbol.asyncDispose]())

interface Step {
  readonly step: number
  readonly stage: string
  readonly instruction: string
  readonly status: string
  readonly reason: { readonly kind: string } | null
}

const failing = 'FROM base:1 AS one\nRUN exit 3\nFROM base:1\nCOPY --from=one /etc/group /g\nRUN true\n'

describe('as text', () => {
  test('a table follows the progress, before the line that says success', () => {
    const context = bench.context({ Dockerfile: 'FROM base:1\nCOPY Dockerfile /\nRUN echo text\n' })
    bench.ok(['build', '.'], { cwd: context })
    const { status, stdout, stderr } = bench.run(['build', '--explain', '.'], { cwd: context })
    expect([status, stderr]).toEqual([0, ''])
    const lines = stdout.trimEnd().split('\n')
    const header = lines.findIndex((line) => line.startsWith('STEP  INSTRUCTION'))
    expect(lines[header]).toMatch(/^STEP {2}INSTRUCTION {8}CACHE( {2}REASON)?$/)
    expect(lines[header + 2]).toBe('2     COPY Dockerfile /  hit')
    expect(lines[header + 3]).toBe('3     RUN echo text      hit')
    expect(lines[header + 4]).toMatch(/^Cache: [23] hit, [01] missed, 0 skipped$/)
    expect(lines.slice(header + 5)).toEqual([expect.stringMatching(/^Build success with image id: /)])
  })

  test('a failed build shows what it did not come to', () => {
    const { status, stdout } = bench.run(['build', '--explain', '-f', '-', '.'], { input: failing })
    expect(status).toBe(3)
    expect(stdout).toMatch(/^2 {5}one {6}RUN exit 3 +miss/m)
    expect(stdout).toMatch(/^4 {5}stage-1 {2}COPY --from=one \/etc\/group \/g {2}skipped {2}not-reached$/m)
    expect(stdout).toMatch(/^5 {5}stage-1 {2}RUN true +skipped {2}not-reached$/m)
  })

  test('with -q it goes to standard error', () => {
    const input = 'FROM base:1\nRUN echo quiet\n'
    const { status, stdout, stderr } = bench.run(['build', '-q', '--explain', '-f', '-', '.'], { input })
    expect(status).toBe(0)
    expect(stdout).toMatch(/^[0-9a-f]{64}\n$/)
    expect(stderr).toMatch(/^STEP {2}INSTRUCTION .*\n1 .*\n2 {5}RUN echo quiet +miss.*\nCache: .*\n$/)
  })
})

describe('as JSON', () => {
  test.each([
    ['--explain=json', ['--explain=json']],
    ['--explain --format json', ['--explain', '--format', 'json']],
  ])('%s gives one object, and everything else on standard error', (_, flags) => {
    const input = 'FROM base:1\nENV A=1\nRUN echo json\n'
    bench.ok(['build', '-f', '-', '.'], { input })
    const { status, stdout, stderr } = bench.run(['build', ...flags, '-t', 'json:1', '-f', '-', '.'], {
      input,
    })
    expect(status).toBe(0)
    expect(stderr).toMatch(/^STEP {2}1: FROM base:1$/m)
    expect(stderr).toMatch(/^Build success with image id: /m)
    expect(stdout.split('\n')).toHaveLength(2)
    const document = JSON.parse(stdout)
    const [image] = bench.ok(['images', '-q', 'json']).split('\n')
    expect(document).toMatchObject({ v: 1, image, names: ['json:1'], error: null, skipped: 0 })
    const steps: readonly Step[] = document.steps
    expect(steps.map(({ step, stage, instruction }) => [step, stage, instruction])).toEqual([
      [1, '', 'FROM base:1'],
      [2, '', 'ENV A=1'],
      [3, '', 'RUN echo json'],
    ])
    expect(steps[2]).toMatchObject({ status: 'hit', reason: null })
    expect(document.hits + document.misses).toBe(3)
  })

  test('a failed build gives the object with its error, and the exit code of the command', () => {
    const { status, stdout, stderr } = bench.run(['build', '--explain=json', '-f', '-', '.'], {
      input: failing,
    })
    expect(status).toBe(3)
    expect(stderr).toContain('returned a non-zero code: 3')
    const document = JSON.parse(stdout)
    expect(document).toMatchObject({ v: 1, image: null, names: [], error: { code: 'ISB_STEP_FAILED' } })
    const steps: readonly Step[] = document.steps
    expect(steps.map(({ status }) => status).slice(1)).toEqual(
      expect.arrayContaining(['miss', 'skipped', 'skipped']),
    )
  })

  test('a Dockerfile that cannot be planned gives it without steps', () => {
    const { status, stdout } = bench.run(['build', '-q', '--explain=json', '-f', '-', '.'], {
      input: 'FORM base:1\n',
    })
    expect(status).toBe(1)
    expect(JSON.parse(stdout)).toMatchObject({ v: 1, image: null, hits: 0, misses: 0, skipped: 0, steps: [] })
  })

  test('it does not share standard output with an archive', () => {
    const { status, stdout, stderr } = bench.run(
      ['build', '--explain=json', '-o', 'type=oci', '-f', '-', '.'],
      { input: 'FROM base:1\n' },
    )
    expect([status, stdout]).toEqual([1, ''])
    expect(stderr).toContain('cannot both go to standard output')
  })
})

test('--format json is no format of an image, and --explain knows two forms', () => {
  const input = 'FROM base:1\n'
  expect(bench.run(['build', '--format', 'json', '-f', '-', '.'], { input }).stderr).toContain(
    'image format "json" is not supported',
  )
  expect(bench.run(['build', '--explain=xml', '-f', '-', '.'], { input }).stderr).toContain(
    'cannot explain as "xml"',
  )
})

test('--no-cache-filter warns of what names no stage', () => {
  const input = 'FROM base:1 AS Build\nRUN echo filter\n'
  const stdout = bench.ok(['build', '--no-cache-filter', 'biuld,0', '-f', '-', '.'], { input })
  expect(stdout).toContain('[Warning] --no-cache-filter: no stage named "biuld", did you mean "build"?')
  expect(stdout).not.toContain('"0"')
})
