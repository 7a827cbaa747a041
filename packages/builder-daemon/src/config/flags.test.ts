import { expect, test } from 'vitest'
import { completionScript } from './completion.js'
import { type DaemonFlags, daemonHelp, parseFlags, socketPath } from './flags.js'

function flags(argv: readonly string[], environment: Record<string, string> = {}): DaemonFlags {
  const outcome = parseFlags(argv, environment)
  if (outcome.kind !== 'run') throw new Error(`parsed as ${outcome.kind}`)
  return outcome.flags
}

test('without flags everything is left to the files and the defaults', () => {
  expect(flags([])).toEqual({
    debug: false,
    logLevel: undefined,
    dataRoot: undefined,
    runRoot: undefined,
    group: undefined,
    storageDriver: undefined,
    storageOpts: [],
    experimental: undefined,
    socket: '/var/run/isula_build.sock',
    configDir: '/etc/isula-build',
  })
})

test('every flag is taken, with = and with a space', () => {
  const given = flags([
    ...['-D', '--log-level=warn', '--dataroot', '/d', '--runroot=/r', '--group', 'staff'],
    ...['--storage-driver', 'overlay', '--storage-opt', 'a=1', '--storage-opt=b=2', '--experimental'],
    ...['--host', 'unix:///run/x.sock', '--config-dir', '/c'],
  ])
  expect(given).toEqual({
    debug: true,
    logLevel: 'warn',
    dataRoot: '/d',
    runRoot: '/r',
    group: 'staff',
    storageDriver: 'overlay',
    storageOpts: ['a=1', 'b=2'],
    experimental: true,
    socket: '/run/x.sock',
    configDir: '/c',
  })
})

test('the socket is that of --host, then of ISULABUILD_HOST, then the default', () => {
  const environment = { ISULABUILD_HOST: 'unix:///run/env.sock' }
  expect(flags(['--host', 'unix:///run/flag.sock'], environment).socket).toBe('/run/flag.sock')
  expect(flags([], environment).socket).toBe('/run/env.sock')
  expect(flags([], { ISULABUILD_HOST: '' }).socket).toBe('/var/run/isula_build.sock')
})

test.each(['', 'tcp://127.0.0.1:1', '/run/x.sock', 'unix://relative.sock', `unix:///${'x'.repeat(107)}`])(
  'the host %s is refused',
  (host) => {
    expect(() => socketPath(host)).toThrow(`invalid socket path: ${host}`)
  },
)

test('the length of a socket path counts in bytes', () => {
  expect(socketPath(`unix:///${'x'.repeat(106)}`)).toHaveLength(107)
  expect(() => socketPath(`unix:///${'é'.repeat(60)}`)).toThrow(/invalid socket path/)
})

test.each([
  [['--nope'], 'unknown flag: --nope'],
  [['--data-root=/x'], 'unknown flag: --data-root'],
  [['-x'], 'unknown flag: -x'],
  [['serve'], '"isula-builder" accepts no arguments, got "serve"'],
  [['--dataroot'], /--dataroot/],
  [['--debug=maybe'], /--debug/],
])('%s is refused with a way on', (argv, message) => {
  expect(() => parseFlags(argv as string[], {})).toThrow(
    expect.objectContaining({
      code: 'ISB_ARGUMENT_INVALID',
      message: typeof message === 'string' ? message : expect.stringMatching(message as RegExp),
      hint: "See 'isula-builder --help'.",
    }),
  )
})

test('help, version and completion win over everything else', () => {
  expect(parseFlags(['--debug', '-h'], {}).kind).toBe('help')
  expect(parseFlags(['-v'], {}).kind).toBe('version')
  expect(parseFlags(['completion'], {}).kind).toBe('completion')
})

test('help and completion know the same flags', () => {
  const inHelp = [...daemonHelp.matchAll(/--([a-z-]+)/g)].map(([flag]) => flag)
  const inCompletion = [...(/flags="([^"]+)"/.exec(completionScript)?.[1] ?? '').split(' ')]
  expect([...new Set(inHelp)].sort()).toEqual(inCompletion.sort())
})
