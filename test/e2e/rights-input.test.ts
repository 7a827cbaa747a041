import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { builderService } from '../../packages/shared/src/rpc/builder.js'
import { controlService } from '../../packages/shared/src/rpc/control.js'
import type { AnyMethod } from '../../packages/shared/src/rpc/service.js'
import type { UserCall, UserCallEnd } from '../support/calls-as-user.js'
import { number, part, text } from '../support/proto-bytes.js'
import { createRightsBench, type RightsBench, userCall } from '../support/rights-bench.js'

/** Messages that no client of ours would send, from a member of the socket's group (S13, S14, S21, S62, S63). */

const isRoot = process.getuid?.() === 0
const internal = 13
/** Statuses that say what was wrong with a request; INTERNAL is for what does not decode, as gRPC has it. */
const clear = [1, 3, 4, 5, 6, 7, 8, 9, 12, internal]

/** Bytes for a field of any type: each is well-formed protobuf, whatever the field should be. */
const values: readonly (readonly [string, (field: number) => Buffer])[] = [
  ['empty', (field) => part(field)],
  ['NUL', (field) => text(field, 'a\0b')],
  ['huge', (field) => text(field, 'x'.repeat(100_000))],
  ['not UTF-8', (field) => part(field, Buffer.from([0xff, 0xfe, 0xc0, 0x80]))],
  ['negative', (field) => number(field, -1)],
  ['an unknown choice', (field) => number(field, 2 ** 31 - 1)],
  ['the largest number', (field) => number(field, 2n ** 64n - 1n)],
  ['climbing', (field) => text(field, `${'../'.repeat(30)}etc/shadow`)],
  ['absolute', (field) => text(field, '/etc/shadow')],
  ['an option', (field) => text(field, '--help')],
  ['line ends', (field) => text(field, '"}\n{"level":60,"msg":"forged"}\r\n\x1b[2J')],
  ['a thousand times', (field) => Buffer.concat(Array.from({ length: 1000 }, () => text(field, 'x')))],
  ['nested', (field) => part(field, part(1, part(1, part(1, part(1, part(1))))))],
]

const hostileIds = [
  ...['../../x', '/etc/x', 'a/b', 'a\0b', '.', '..', '-', '--x', 'x'.repeat(65), 'x'.repeat(300), 'ü', ' '],
  ...['a\nb', '$(id)', '%2e%2e', '__proto__/'],
]

describe.skipIf(!isRoot)('a hostile client', () => {
  let rights: RightsBench

  beforeAll(async () => {
    rights = await createRightsBench()
  })
  afterEach(() => rights.expectUnharmed())
  afterAll(() => rights?.[Symbol.asyncDispose]())

  const raw = (method: AnyMethod, bytes: Buffer, patience = 4000): UserCall => ({
    ...userCall(method, [], { patience }),
    requests: [bytes.toString('hex')],
  })

  /** Every call ends with a status that says something, and nothing of the inside. */
  function expectClear(calls: readonly UserCall[], ends: readonly UserCallEnd[]): void {
    for (const [index, { code, details }] of ends.entries()) {
      const what = `${calls[index]?.path} ${calls[index]?.requests[0]?.slice(0, 60)}: ${details.slice(0, 300)}`
      if (code === 0) continue
      expect(clear, what).toContain(code)
      expect(details, what).not.toBe('')
      expect(details, what).not.toMatch(/\n\s+at |TypeError|RangeError|SyntaxError|ENOENT: |undefined/)
      expect(details.length, what).toBeLessThan(4096)
    }
  }

  // What would change the images of others or needs time is tested with sense below.
  const methods = [...Object.values(controlService), ...Object.values(builderService)] as readonly AnyMethod[]

  test.each(values)('sends fields that are %s', async (_what, bytes) => {
    const calls = methods.flatMap((method) => {
      const numbers = Array.from({ length: 8 }, (_, i) => i + 1)
      return [...numbers, 15, 536_870_911].map((field) => raw(method, bytes(field), 2500))
    })
    expectClear(calls, await rights.calls(rights.alice, calls))
  })

  test('leaves out everything, or sends every field hostile at once', async () => {
    const calls = methods.flatMap((method) => [
      raw(method, Buffer.alloc(0), 2000),
      ...values
        .filter(([what]) => what !== 'huge')
        .map(([, bytes]) =>
          raw(method, Buffer.concat(Array.from({ length: 24 }, (_, i) => bytes(i + 1))), 2000),
        ),
    ])
    expectClear(calls, await rights.calls(rights.alice, calls))
  })

  test('sends build IDs that are paths, options or too long', async () => {
    const context = rights.context(rights.alice, 'FROM base:1\n')
    const base = { buildType: 'ctr-img', contextDir: context, fileContent: 'FROM base:1\n' }
    const dockerfile = { name: 'Dockerfile', content: Buffer.from('FROM base:1\n') }
    const calls = hostileIds.flatMap((id) => [
      userCall(controlService.Build, [{ ...base, buildID: id }], { patience: 3000 }),
      userCall(controlService.Status, [{ buildID: id }], { patience: 3000 }),
      userCall(
        builderService.Build,
        [
          {
            payload: {
              case: 'options',
              value: { buildId: id, dockerfile, context: { source: { case: 'stream', value: {} } } },
            },
          },
        ],
        { end: false, patience: 3000 },
      ),
    ])
    const ends = await rights.calls(rights.alice, calls)
    expectClear(calls, ends)
    for (const end of ends) expect(end).toMatchObject({ code: 3 })
  })

  test('sends names, arguments, formats and outputs that are none', async () => {
    const contextDir = rights.context(rights.alice, 'FROM base:1\n')
    const bad = [
      ...[{ additionalTag: '../x' }, { additionalTag: 'a b' }, { additionalTag: `${'a'.repeat(300)}:1` }],
      ...[
        { additionalTag: 'x:\0' },
        { additionalTag: 'X/../y:1' },
        { format: 'tar' },
        { buildType: 'shell' },
      ],
      ...[
        { output: 'docker-archive:relative' },
        { output: 'x'.repeat(600) },
        { output: 'docker-archive:/a\0b' },
      ],
      ...[{ iidfile: 'relative' }, { iidfile: '/a\0b' }, { contextDir: '' }, { contextDir: '.' }],
      ...[{ contextDir: `/${'x/'.repeat(4000)}` }, { encrypted: true, buildArgs: ['zz'] }],
      ...[{ encrypted: true, buildArgs: ['00'.repeat(256)] }, { fileContent: 'x'.repeat((1 << 20) + 1) }],
      ...[
        { fileContent: '\0' },
        { buildStatic: { buildTime: { seconds: -Number.MAX_SAFE_INTEGER, nanos: 0 } } },
      ],
      { buildStatic: { buildTime: { seconds: Number.MAX_SAFE_INTEGER, nanos: 2 ** 31 - 1 } } },
    ]
    const base = { buildType: 'ctr-img', contextDir, fileContent: 'FROM base:1\n' }
    const calls = bad.flatMap((request, index) => {
      const buildID = rights.fresh('bad')
      return [
        userCall(controlService.Build, [{ ...base, ...request, buildID } as never], { patience: 8000 }),
        userCall(controlService.Status, [{ buildID }], { patience: 8000, follows: 2 * index }),
      ]
    })
    const ends = await rights.calls(rights.alice, calls)
    expectClear(calls, ends)
    const accepted = bad.filter((_request, index) => ends[2 * index]?.code === 0)
    expect(accepted).toEqual([])
  })

  test('sends archives by paths that are none', async () => {
    const { alice } = rights
    const paths = ['', '.', 'x', '/', '//', '/a\0b', `/${'x'.repeat(5000)}`, '/x/../../..', alice.home, '/\n']
    const calls = paths.flatMap((path) => [
      userCall(controlService.Load, [{ path }]),
      userCall(controlService.Import, [{ source: path, reference: 'x:1' }]),
      userCall(controlService.Save, [{ images: ['base:1'], path }]),
      userCall(controlService.Load, [{ sep: { app: 'a:1', dir: path, enabled: true } }]),
      userCall(controlService.Save, [
        { images: ['base:1'], sep: { base: 'base:1', dest: path, enabled: true } },
      ]),
    ])
    const ends = await rights.calls(alice, calls)
    expectClear(calls, ends)
    for (const end of ends) expect(end).not.toMatchObject({ code: 0 })
    for (const name of ['..', '../x', 'a\0b', '-', '', ' ', 'A:1', 'x:', ':x', `a/${'b'.repeat(600)}`]) {
      const tagged = await rights.call(alice, controlService.Tag, { image: 'base:1', tag: name })
      expect({ name, ...tagged }).toMatchObject({ code: 3 })
    }
  })

  test('sends more than a message may hold, and speaks out of turn', async () => {
    const huge = raw(controlService.List, text(1, 'x'.repeat(5 << 20)), 10_000)
    const options = {
      payload: { case: 'context', value: { name: '', data: Buffer.alloc(1), end: false } },
    } as const
    const frames = [
      userCall(builderService.Build, [options], { patience: 3000 }),
      userCall(builderService.Build, [{}], { patience: 3000 }),
      userCall(builderService.Build, [], { patience: 3000 }),
      userCall(builderService.Load, [{}], { patience: 3000 }),
      userCall(builderService.Import, [], { patience: 3000 }),
      userCall(builderService.Load, [{ payload: { case: 'chunk', value: Buffer.alloc(10) } }], {
        patience: 3000,
      }),
    ]
    const unknown = { ...raw(controlService.List, Buffer.alloc(0)), path: '/isula.build.v1.Control/Nothing' }
    const calls = [huge, ...frames, unknown]
    const ends = await rights.calls(rights.alice, calls)
    expect(ends.map(({ code }) => code)).toEqual([8, 3, 3, 3, 3, 3, 3, 12])
    expectClear(calls, ends)
  })

  test('sends a context that leads out of its directory', async () => {
    const { rawTar } = await import('../../packages/builder-daemon/src/layer/test-layers.js')
    const secret = join(rights.guarded.directory, 'secret')
    const tars = [
      rawTar({ name: '../../../../../../etc/isula-rights', content: 'x' }),
      rawTar({ name: '/etc/isula-rights', content: 'x' }),
      rawTar({ name: 'd', type: '2', link: '/etc' }, { name: 'd/isula-rights', content: 'x' }),
      rawTar({ name: 'l', type: '2', link: secret }),
      rawTar({ name: 'h', type: '1', link: secret }),
      rawTar({ name: 'b', type: '4', device: [7, 0], mode: 0o666 }, { name: 'f', type: '6' }),
      rawTar({ name: '.dockerignore', type: '2', link: secret }),
      Buffer.alloc(10_240, 0xff),
      Buffer.alloc(0),
    ]
    const dockerfile = {
      name: 'Dockerfile',
      content: Buffer.from('FROM base:1\nCOPY . /c/\nRUN cat /c/* || true\n'),
    }
    const source = { source: { case: 'stream', value: {} } } as const
    for (const data of tars) {
      const call = userCall(
        builderService.Build,
        [
          { payload: { case: 'options', value: { dockerfile, context: source } } },
          { payload: { case: 'context', value: { name: '', data, end: true } } },
        ],
        { end: false, patience: 10_000 },
      )
      const [end] = await rights.calls(rights.alice, [call])
      expectClear([call], end === undefined ? [] : [end])
      const shown = (end?.responses ?? []).map((hex) => Buffer.from(hex, 'hex').toString('latin1')).join('')
      expect(shown).not.toContain(rights.guarded.secret)
    }
  })
})
