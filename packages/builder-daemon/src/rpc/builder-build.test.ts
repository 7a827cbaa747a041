import { decodeBuildEvent } from '@isula-build/shared/rpc/build-event.js'
import type {
  BuildOptionsMessage,
  BuildRequest,
  BuildResponse,
} from '@isula-build/shared/rpc/build-messages.js'
import { builderService } from '@isula-build/shared/rpc/builder.js'
import type { Decoded, Encodable } from '@isula-build/shared/rpc/codec.js'
import { describe, expect, test } from 'vitest'
import { useRpcClient } from '../../../../test/support/rpc-bench.js'
import { drain, failure } from './test-client.js'

type Frame = Encodable<typeof BuildRequest>
type Response = Decoded<typeof BuildResponse>
type Options = Encodable<typeof BuildOptionsMessage>

const bench = useRpcClient([
  { id: '1'.repeat(64), names: ['a:1', 'b:1'], createdAt: 5, size: 6, owner: 7 },
  { id: '2'.repeat(64), names: [], createdAt: 4, size: 1, owner: 0 },
])

interface Outcome {
  readonly output: string
  readonly kinds: readonly string[]
  readonly result: { readonly imageId: string; readonly names: readonly string[] } | undefined
}

/** Runs one build; `answer` says what the client sends back for a response. */
async function run(
  lines: readonly string[],
  options: Options = {},
  answer: (response: Response) => readonly Frame[] = () => [],
): Promise<Outcome> {
  const { call, responses } = bench.client.duplex(builderService.Build)
  call.write({ payload: { case: 'options', value: { ...minimal(lines), ...options } } })
  let output = ''
  const kinds: string[] = []
  let result: Outcome['result']
  for await (const response of responses) {
    for (const frame of answer(response)) call.write(frame)
    const { payload } = response
    if (payload?.case === 'result') result = payload.value
    if (payload?.case !== 'event') continue
    const event = decodeBuildEvent(payload.value)
    if (event === undefined) throw new Error('an event got lost')
    kinds.push(event.kind)
    if (event.kind === 'output') output += Buffer.from(event.data).toString('utf8')
  }
  return { output, kinds, result }
}

function minimal(lines: readonly string[]): Options {
  return {
    dockerfile: { name: 'Dockerfile', content: Buffer.from(lines.join('\n')) },
    context: { source: { case: 'directory', value: { path: '/ctx' } } },
  }
}

function chunk(name: string, data: string | Buffer, end = false): Frame {
  return { payload: { case: 'context', value: { name, data: Buffer.from(data), end } } }
}

describe('Build', () => {
  test('sends typed events, then the result', async () => {
    const { output, kinds, result } = await run(['SAY hi', 'WARN w'], { tags: ['t:1'] })
    expect(output).toBe('hi')
    expect(kinds).toEqual([
      'step-started',
      'output',
      'step-finished',
      'step-started',
      'warning',
      'step-finished',
      'stage-committed',
      'finished',
    ])
    expect(result).toEqual({ imageId: 'a'.repeat(64), names: ['t:1'] })
  })

  test('sends only warnings and the end when quiet', async () => {
    expect((await run(['SAY hi', 'WARN w'], { quiet: true })).kinds).toEqual(['warning', 'finished'])
  })

  test('splits output larger than a frame', async () => {
    const big = 'x'.repeat((1 << 20) + 5)
    const { output, kinds } = await run([`SECRET big`], {}, () => [])
    expect(output).toBe('none')
    expect(kinds).toContain('output')
    const secrets = [{ id: 'big', value: Buffer.from(big.slice(0, 400_000)) }]
    expect((await run(['SECRET big', 'SECRET big'], { secrets })).output).toHaveLength(800_000)
  })

  test('passes every option on', async () => {
    const source = { source: { case: 'image', value: 'busybox' } } as const
    await run(['SAY x'], {
      buildId: 'id-1',
      ignoreFile: { name: 'D.dockerignore', content: Buffer.from('*') },
      context: { source: { case: 'directory', value: { path: '/ctx', dev: 1n, inode: (1n << 64n) - 1n } } },
      namedContexts: new Map([['base', source]]),
      buildArgs: new Map([['A', 'b']]),
      labels: new Map([['l', 'v']]),
      env: new Map([['E', 'v']]),
      target: 't',
      tags: ['x'],
      outputs: [
        {
          type: 'oci-archive',
          destination: { case: 'file', value: { path: '/o.tar', parentDev: 3n, parentInode: 4n } },
          name: 'n',
        },
        { type: 'docker-archive', destination: { case: 'stream', value: {} } },
        { type: 'rootfs', destination: { case: 'stream', value: {} } },
        {
          type: 'registry',
          destination: { case: 'reference', value: 'h:5000/r:1' },
          push: { format: 'oci', compression: 'zstd', level: 3 },
        },
        { type: 'docker-daemon', destination: { case: 'reference', value: 'd:1' } },
        { type: 'isulad', destination: { case: 'reference', value: 'x' }, name: 'i:2' },
      ],
      noCache: true,
      platforms: ['linux/arm64', 'linux/amd64'],
      pull: 'newer',
      transfer: { tlsVerify: false, retries: 0, retryDelay: 5 },
      capAdd: ['CAP_SYS_ADMIN'],
      proxy: true,
      format: 'oci',
      layers: 'stage',
      network: 'none',
      isolation: 'chroot',
      buildTime: { seconds: 7, nanos: 0 },
      sshAgents: ['default'],
      cache: {
        from: [
          { location: { case: 'reference', value: 'h/c' } },
          { location: { case: 'directory', value: { path: '/c', dev: 5n, inode: 6n } } },
        ],
        to: [
          { location: { case: 'reference', value: 'h/c' } },
          {
            location: { case: 'directory', value: { path: '/d', parentDev: 7n, parentInode: 8n } },
            mode: 'max',
            compression: 'zstd',
            ignoreError: true,
          },
        ],
      },
      noCacheFilter: ['base', '2'],
    })
    expect(bench.core.started[0]?.options).toEqual({
      id: 'id-1',
      dockerfile: { name: 'Dockerfile', content: Buffer.from('SAY x') },
      ignoreFile: { name: 'D.dockerignore', content: Buffer.from('*') },
      context: { kind: 'directory', path: '/ctx', expected: { dev: 1n, ino: (1n << 64n) - 1n } },
      namedContexts: { base: { kind: 'image', reference: 'busybox' } },
      buildArgs: { A: 'b' },
      labels: { l: 'v' },
      env: { E: 'v' },
      target: 't',
      tags: ['x'],
      outputs: [
        {
          kind: 'oci-archive',
          name: 'n:latest',
          target: { kind: 'file', path: '/o.tar', parent: { dev: 3n, ino: 4n } },
        },
        { kind: 'docker-archive', name: undefined, target: { kind: 'stream' } },
        { kind: 'rootfs', name: undefined, target: { kind: 'stream' } },
        {
          kind: 'registry',
          reference: 'h:5000/r:1',
          push: { format: 'oci', compression: 'zstd', level: 3 },
          name: 'h:5000/r:1',
        },
        { kind: 'docker-daemon', name: 'd:1' },
        { kind: 'isulad', name: 'i:2' },
      ],
      iidFile: undefined,
      noCache: true,
      platforms: ['linux/arm64', 'linux/amd64'],
      pull: 'newer',
      transfer: { tlsVerify: false, retries: 0, retryDelay: 5 },
      capAdd: ['CAP_SYS_ADMIN'],
      proxy: true,
      format: 'oci',
      layers: 'stage',
      network: 'none',
      isolation: 'chroot',
      fixedTime: 7,
      secrets: new Map(),
      sshAgents: ['default'],
      cacheFrom: [
        { kind: 'registry', reference: 'h/c' },
        { kind: 'directory', path: '/c', expected: { dev: 5n, ino: 6n } },
      ],
      cacheTo: [
        { kind: 'registry', reference: 'h/c', mode: 'min', compression: undefined, ignoreError: false },
        {
          kind: 'directory',
          path: '/d',
          parent: { dev: 7n, ino: 8n },
          mode: 'max',
          compression: 'zstd',
          ignoreError: true,
        },
      ],
      noCacheFilter: ['base', '2'],
    })
  })

  test('streams the contexts it asks for', async () => {
    const options: Options = {
      context: { source: { case: 'stream', value: {} } },
      namedContexts: new Map([['more', { source: { case: 'stream', value: {} } }]]),
    }
    const asked: string[] = []
    const megabyte = Buffer.alloc(1 << 20, 'm')
    const { output } = await run(['CONTEXT', 'CONTEXT more'], options, ({ payload }) => {
      if (payload?.case !== 'needContext') return []
      const { name } = payload.value
      asked.push(name)
      if (name === '') return [chunk('', 'ab'), chunk('', ''), chunk('', 'c', true)]
      return [...Array.from({ length: 20 }, () => chunk(name, megabyte)), chunk(name, '', true)]
    })
    expect(asked).toEqual(['', 'more'])
    expect(output).toBe(`<abc><${20 << 20} bytes>`)
  })

  test('writes outputs through the client, and waits for its word', async () => {
    const outputs = [{ type: 'docker-archive', destination: { case: 'stream', value: {} } }] as const
    let got = ''
    const { result } = await run(['WRITE 0 the archive'], { outputs }, ({ payload }) => {
      if (payload?.case !== 'output') return []
      got += Buffer.from(payload.value.data).toString('utf8')
      return payload.value.end ? [{ payload: { case: 'outputAck', value: { output: 0 } } }] : []
    })
    expect(got).toBe('the archive')
    expect(result).toBeDefined()
  })

  test('fails when the client cannot write', async () => {
    const outputs = [{ type: 'docker-archive', destination: { case: 'stream', value: {} } }] as const
    const failed = run(['WRITE 0 the archive'], { outputs }, ({ payload }) =>
      payload?.case === 'output' && payload.value.end
        ? [{ payload: { case: 'outputAck', value: { output: 0, error: 'disk full' } } }]
        : [],
    )
    expect(await failure(failed)).toMatchObject({
      code: 'ISB_COPY_FAILED',
      message: 'the client could not write its output: disk full',
    })
  })

  test('forwards agents', async () => {
    const sent: string[] = []
    const { output } = await run(['AGENT default ping'], { sshAgents: ['default'] }, ({ payload }) => {
      if (payload?.case !== 'agent') return []
      const { agent, connection, data, end } = payload.value
      sent.push(`${agent} ${connection} ${Buffer.from(data).toString()} ${end}`)
      if (data.length === 0) return []
      const reply = { agent, connection, data: Buffer.from('pong'), end: true }
      return [{ payload: { case: 'agent', value: reply } }]
    })
    expect(sent).toEqual(['default 1  false', 'default 1 ping false', 'default 1  true'])
    expect(output).toBe('pong')
  })

  test('asks the client for logins, for the same one once', async () => {
    const asked: string[] = []
    const { output } = await run(['LOGIN h r', 'LOGIN h r', 'LOGIN other r'], {}, ({ payload }) => {
      if (payload?.case !== 'needCredentials') return []
      const { question, host, repository } = payload.value
      asked.push(`${host} ${repository}`)
      const credentials = { username: 'u', password: 'p' }
      const known = host === 'h' ? { credentials, explicit: true } : {}
      return [{ payload: { case: 'credentials', value: { question, ...known } } }]
    })
    expect(asked).toEqual(['h r', 'other r'])
    const login = '{"username":"u","password":"p","explicit":true}'
    expect(output).toBe(`${login}${login}none`)
  })

  test('refuses an agent nobody forwards', async () => {
    expect((await failure(run(['AGENT other ping']))).message).toBe('the client forwards no agent "other"')
  })

  test.each<[string, Frame, string]>([
    ['a context nobody asked for', chunk('', 'x'), 'nobody asked for context ""'],
    [
      'an acknowledgement of nothing',
      { payload: { case: 'outputAck', value: { output: 3 } } },
      'nobody sent output 3',
    ],
    [
      'data for no connection',
      { payload: { case: 'agent', value: { connection: 9 } } },
      'no agent connection 9',
    ],
    [
      'a login nobody asked for',
      { payload: { case: 'credentials', value: { question: 1 } } },
      'nobody asked question 1',
    ],
    ['options once more', { payload: { case: 'options', value: {} } }, 'come once'],
    ['an empty frame', {}, 'a frame is empty'],
  ])('ends a build whose client sends %s', async (_, frame, message) => {
    const { call, responses } = bench.client.duplex(builderService.Build)
    call.write({ payload: { case: 'options', value: minimal(['WAIT']) } })
    await responses.next()
    call.write(frame)
    const error = await failure(drain(responses))
    expect(error.code).toBe('ISB_ARGUMENT_INVALID')
    expect(error.message).toContain(message)
    expect(bench.core.started[0]?.signal.aborted).toBe(true)
  })

  test('refuses chunks larger than a frame may be', async () => {
    const failed = run(['CONTEXT'], {}, ({ payload }) =>
      payload?.case === 'needContext' ? [chunk('', Buffer.alloc((1 << 20) + 1))] : [],
    )
    expect((await failure(failed)).message).toContain('more than 1048576 bytes')
  })

  test('fails when the client stops in the middle of its context', async () => {
    const { call, responses } = bench.client.duplex(builderService.Build)
    call.write({ payload: { case: 'options', value: minimal(['CONTEXT']) } })
    for await (const { payload } of { [Symbol.asyncIterator]: () => responses }) {
      if (payload?.case === 'needContext') break
    }
    // Leaving the loop cancelled that call; this one only ends its side.
    const second = bench.client.duplex(builderService.Build)
    second.call.write({ payload: { case: 'options', value: minimal(['CONTEXT']) } })
    second.call.end()
    expect((await failure(drain(second.responses))).code).toBe('ISB_CONTEXT_INVALID')
  })

  test.each<[string, Options, string]>([
    ['without a Dockerfile', { dockerfile: undefined }, 'no Dockerfile'],
    ['without a context', { context: undefined }, 'no context'],
    [
      'with a relative context',
      { context: { source: { case: 'directory', value: { path: 'x' } } } },
      'not absolute',
    ],
    [
      'with a NUL in a path',
      { context: { source: { case: 'directory', value: { path: '/x\0' } } } },
      'not absolute',
    ],
    ['with unknown layers', { layers: 'all' }, 'layers "all" is not supported'],
    ['with an unknown network', { network: 'bridge' }, 'network "bridge"'],
    ['with a secret twice', { secrets: [{ id: 'a' }, { id: 'a' }] }, 'given twice'],
    ['with a nameless secret', { secrets: [{}] }, 'no id'],
    ['with an output nowhere', { outputs: [{ type: 'docker-archive' }] }, 'no destination'],
    [
      'with an unknown output',
      { outputs: [{ type: 'tape', destination: { case: 'stream', value: {} } }] },
      'output "tape" cannot go to a file',
    ],
    [
      'with an archive at a reference',
      { outputs: [{ type: 'oci-archive', destination: { case: 'reference', value: 'x' } }] },
      'output "oci-archive" cannot go to a reference',
    ],
    ['with an unknown pull policy', { pull: 'sometimes' }, 'pull policy "sometimes"'],
    ['with too many retries', { transfer: { retries: 101 } }, 'more than 100 retries'],
    [
      'with a compression level alone',
      {
        outputs: [{ type: 'registry', destination: { case: 'reference', value: 'h/x' }, push: { level: 3 } }],
      },
      'a compression level needs a compression',
    ],
  ])('refuses options %s', async (_, change, message) => {
    const error = await failure(run(['SAY x'], change))
    expect(error.code).toBe('ISB_ARGUMENT_INVALID')
    expect(error.message).toContain(message)
  })

  test('limits what is too large', async () => {
    const secrets = [{ id: 'a', value: Buffer.alloc(500 * 1024 + 1) }]
    expect((await failure(run(['SAY x'], { secrets }))).code).toBe('ISB_LIMIT_EXCEEDED')
    const dockerfile = { name: 'D', content: Buffer.alloc((1 << 20) + 1, ' ') }
    expect((await failure(run(['SAY x'], { dockerfile }))).code).toBe('ISB_LIMIT_EXCEEDED')
  })

  test('begins with options or not at all', async () => {
    const { call, responses } = bench.client.duplex(builderService.Build)
    call.write(chunk('', 'x'))
    expect((await failure(drain(responses))).message).toBe('the first frame of a build is its options')
    const silent = bench.client.duplex(builderService.Build)
    silent.call.end()
    expect((await failure(drain(silent.responses))).code).toBe('ISB_ARGUMENT_INVALID')
  })
})
