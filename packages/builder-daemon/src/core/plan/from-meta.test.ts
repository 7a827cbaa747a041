import { describe, expect, test } from 'vitest'
import { processorTime } from '../../../../../test/support/processor-time.js'
import {
  defaultPath,
  fakeResolver,
  historyTexts,
  lastEnvironment,
  planFailure,
  planLines,
  runs,
} from './plan-fixture.js'

async function config(...lines: string[]) {
  return (await planLines(['FROM busybox', ...lines])).target.config
}

async function environment(lines: readonly string[], buildArgs: Readonly<Record<string, string>> = {}) {
  return lastEnvironment(await planLines([...lines, 'RUN true'], { buildArgs }))
}

describe('ARG and ENV', () => {
  test('a build arg beats the default, and an ARG is seen only below its line', async () => {
    const plan = await planLines(['FROM busybox', 'RUN a', 'ARG A=1', 'RUN b'], { buildArgs: { A: '2' } })
    expect(runs(plan).map(({ env }) => env)).toEqual([[defaultPath], [defaultPath, 'A=2']])
  })

  test('an ARG from before FROM needs its bare ARG in the stage', async () => {
    expect(await environment(['ARG G=1', 'FROM busybox'])).not.toHaveProperty('G')
    expect(await environment(['ARG G=1', 'FROM busybox', 'ARG G'])).toMatchObject({ G: '1' })
    expect(await environment(['ARG G=1', 'FROM busybox', 'ARG G=2'])).toMatchObject({ G: '2' })
  })

  test('an ARG with no value anywhere stays unset', async () => {
    expect(await environment(['FROM busybox', 'ARG A', 'ENV B=x${A-unset}'])).toEqual({
      PATH: defaultPath.slice(5),
      B: 'xunset',
    })
  })

  test('platform names come with a bare ARG', async () => {
    const lines = ['FROM busybox', 'ARG TARGETARCH BUILDPLATFORM TARGETVARIANT', 'RUN true']
    const platform = { os: 'linux', architecture: 'arm', variant: 'v7' }
    expect(lastEnvironment(await planLines(lines, { platform }))).toMatchObject({
      TARGETARCH: 'arm',
      TARGETVARIANT: 'v7',
      BUILDPLATFORM: 'linux/amd64',
    })
  })

  test('names of object members are names like others', async () => {
    const lines = ['FROM busybox', 'ARG constructor', 'ARG __proto__=p', 'LABEL __proto__=$__proto__']
    const plan = await planLines([...lines, 'RUN true'])
    expect(lastEnvironment(plan)).not.toHaveProperty('constructor', expect.anything())
    expect(Object.entries(plan.target.config.Labels ?? {})).toEqual([['__proto__', 'p']])
  })

  test('one ENV sees what was set before it only', async () => {
    const { Env } = await config('ENV a=hello', 'ENV a=bye b=$a', 'ENV c=$a')
    expect(Env).toEqual([defaultPath, 'a=bye', 'b=hello', 'c=bye'])
  })

  test('one ARG sees the ARGs before it on its line', async () => {
    expect(await environment(['FROM busybox', 'ARG a=1 b=$a'])).toMatchObject({ a: '1', b: '1' })
  })

  test('a name that expands to nothing is refused', async () => {
    const error = await planFailure(['FROM busybox', 'ENV $X=1'])
    expect(error).toMatchObject({ code: 'ISB_DOCKERFILE_SYNTAX' })
    expect(error.details.source?.start.line).toBe(2)
  })

  test('a `?` that applies names the variable and the line', async () => {
    const error = await planFailure(['FROM busybox', 'LABEL l="${V:?is needed}"'])
    expect(error.message).toContain('V: is needed')
    expect(error.details.source?.start.line).toBe(2)
  })

  test('values that double with every line end in a limit, quickly', async () => {
    const lines = Array.from({ length: 60 }, () => 'ENV A=$A$A')
    const error = await planFailure(['FROM busybox', 'ENV A=0123456789abcdef', ...lines])
    expect(['ISB_LIMIT_EXCEEDED', 'ISB_DOCKERFILE_SYNTAX']).toContain(error.code)
  })
})

describe('proxy settings', () => {
  const buildArgs = { HTTP_PROXY: 'http://user:pass@proxy' }

  test('reach neither config, history nor the environment of a vertex', async () => {
    const plan = await planLines(['FROM busybox', 'ARG HTTP_PROXY', 'RUN true'], { buildArgs })
    expect(JSON.stringify([plan.target, plan.vertices])).not.toContain('pass')
    expect(historyTexts(plan)).toEqual(['ARG HTTP_PROXY', 'RUN /bin/sh -c true # buildkit'])
  })

  test('expand below their ARG, and not without one', async () => {
    const withArg = await planLines(['FROM busybox', 'ARG HTTP_PROXY', 'ENV X=$HTTP_PROXY'], { buildArgs })
    expect(withArg.target.config.Env).toContain('X=http://user:pass@proxy')
    const without = await planLines(['FROM busybox', 'ENV X=$HTTP_PROXY'], { buildArgs })
    expect(without.target.config.Env).toContain('X=')
  })

  test('that the Dockerfile sets itself are ordinary variables', async () => {
    expect(await environment(['FROM busybox', 'ARG http_proxy=d'])).toMatchObject({ http_proxy: 'd' })
    expect(
      await environment(['FROM busybox', 'ARG HTTP_PROXY', 'ENV HTTP_PROXY=e'], buildArgs),
    ).toMatchObject({ HTTP_PROXY: 'e' })
  })
})

describe('CMD and ENTRYPOINT', () => {
  test('the shell form goes through SHELL', async () => {
    expect(await config('CMD echo $x')).toMatchObject({ Cmd: ['/bin/sh', '-c', 'echo $x'] })
    expect(await config('SHELL ["/bin/bash","-c"]', 'ENTRYPOINT a b')).toMatchObject({
      Entrypoint: ['/bin/bash', '-c', 'a b'],
    })
  })

  test('ENTRYPOINT drops an inherited CMD and keeps one of its own stage', async () => {
    expect(await config('ENTRYPOINT ["e"]')).not.toHaveProperty('Cmd')
    expect(await config('CMD ["c"]', 'ENTRYPOINT ["e"]')).toMatchObject({ Cmd: ['c'], Entrypoint: ['e'] })
    const plan = await planLines(['FROM busybox AS a', 'CMD ["c"]', 'FROM a', 'ENTRYPOINT ["e"]'])
    expect(plan.target.config).not.toHaveProperty('Cmd')
  })

  test('history quotes as Go does', async () => {
    const plan = await planLines(['FROM scratch', 'CMD ["a\\"b","ü\\u0001"]'])
    expect(historyTexts(plan)).toEqual(['CMD ["a\\"b" "ü\\x01"]'])
  })
})

describe('WORKDIR', () => {
  test('an absolute path stays as written, a relative one is joined and cleaned', async () => {
    const plan = await planLines([
      'FROM scratch',
      'WORKDIR /a/',
      'WORKDIR b/../c',
      'USER u',
      'WORKDIR ../../..',
    ])
    expect(historyTexts(plan)).toEqual(['WORKDIR /a/', 'WORKDIR /a/c', 'USER u', 'WORKDIR /'])
    expect(plan.vertices.map((vertex) => (vertex.kind === 'workdir' ? vertex.path : ''))).toEqual([
      'a',
      'a/c',
    ])
    expect(plan.target.history.map((entry) => entry.empty_layer ?? false)).toEqual([false, false, true, true])
  })

  test('makes the directory for the user of that line', async () => {
    const plan = await planLines(['FROM scratch', 'USER 1:2', 'WORKDIR /w'])
    expect(plan.vertices).toMatchObject([{ kind: 'workdir', user: '1:2', path: 'w', parent: null }])
  })

  test('starts at the working directory of the base', async () => {
    const resolver = fakeResolver({ img: { WorkingDir: 'home' } })
    expect((await planLines(['FROM img', 'WORKDIR x'], {}, resolver)).target.config.WorkingDir).toBe(
      '/home/x',
    )
  })
})

describe('the other instructions', () => {
  test('EXPOSE takes ranges, protocols and variables with several ports', async () => {
    const { ExposedPorts } = await config('ARG P="80 81/UDP"', 'EXPOSE $P 8000-8002', 'EXPOSE 80/tcp')
    expect(Object.keys(ExposedPorts ?? {})).toEqual(['80/tcp', '81/udp', '8000/tcp', '8001/tcp', '8002/tcp'])
  })

  test.each([
    ['all ports of two protocols', '1-65535/tcp 1-65535/udp'],
    ['more than memory could hold', '0-65535 '.repeat(100_000)],
  ])('EXPOSE of %s is refused at once, where it stands', async (_what, ports) => {
    const began = processorTime()
    const error = await planFailure(['FROM busybox', `EXPOSE ${ports}`])
    expect(processorTime() - began).toBeLessThan(3000)
    expect([error.code, error.details.source?.start.line]).toEqual(['ISB_LIMIT_EXCEEDED', 2])
  })

  test('a stage sets at most 20,000 labels, those of its base included', async () => {
    const labels = (count: number, from = 0): string =>
      `LABEL ${Array.from({ length: count }, (_, i) => `l${from + i}=`).join(' ')}`
    const { target } = await planLines(['FROM scratch', labels(20_000)])
    expect(Object.keys(target.config.Labels ?? {})).toHaveLength(20_000)
    for (const lines of [
      ['FROM scratch', labels(20_001)],
      ['FROM scratch AS a', labels(15_000), 'FROM a', labels(5001, 15_000)],
    ]) {
      const error = await planFailure(lines)
      expect(error).toMatchObject({
        code: 'ISB_LIMIT_EXCEEDED',
        message: 'a stage sets more than 20000 labels',
      })
      expect(error.details.source?.start.line).toBe(lines.length)
    }
  })

  test('EXPOSE takes all ports of a protocol', async () => {
    const { ExposedPorts = {} } = await config('EXPOSE 0-65535/udp')
    expect(Object.keys(ExposedPorts)).toHaveLength(65_536)
  })

  test.each(['90-80', '70000', 'x', '80/icmp'])('EXPOSE %s is refused where it stands', async (port) => {
    const error = await planFailure(['FROM busybox', 'ARG P', 'EXPOSE 1 $P'], { buildArgs: { P: port } })
    expect(error.message).toContain('invalid port')
    expect(error.details.source?.start).toEqual({ line: 3, column: 9 })
  })

  test('VOLUME adds, and refuses what expands to nothing', async () => {
    expect(Object.keys((await config('VOLUME /a /b', 'VOLUME ["/c d"]')).Volumes ?? {})).toEqual([
      '/a',
      '/b',
      '/c d',
    ])
    expect((await planFailure(['FROM busybox', 'VOLUME $NOPE'])).message).toContain('VOLUME')
  })

  test('STOPSIGNAL is expanded and checked', async () => {
    expect(await config('ARG S=INT', 'STOPSIGNAL SIG$S')).toMatchObject({ StopSignal: 'SIGINT' })
    const error = await planFailure(['FROM busybox', 'ARG S=NOPE', 'STOPSIGNAL SIG$S'])
    expect(error.message).toContain('SIGNOPE')
  })

  test('HEALTHCHECK keeps what was given', async () => {
    const plan = await planLines(['FROM scratch', 'HEALTHCHECK --interval=1m30s --retries=2 CMD curl x'])
    expect(plan.target.config.Healthcheck).toEqual({
      Test: ['CMD-SHELL', 'curl x'],
      Interval: 90e9,
      Retries: 2,
    })
    expect(historyTexts(plan)).toEqual([
      'HEALTHCHECK {Test:[CMD-SHELL curl x] Interval:1m30s Timeout:0s StartPeriod:0s StartInterval:0s Retries:2}',
    ])
    expect(await config('HEALTHCHECK NONE')).toMatchObject({ Healthcheck: { Test: ['NONE'] } })
  })

  test('LABEL expands keys and values, MAINTAINER sets the author', async () => {
    const plan = await planLines(['FROM scratch', 'ARG k=key', 'LABEL $k="a b" x=y', 'MAINTAINER me <m@e>'])
    expect(plan.target.config.Labels).toEqual({ key: 'a b', x: 'y' })
    expect(plan.target.author).toBe('me <m@e>')
    expect(historyTexts(plan)).toEqual(['ARG k=key', 'LABEL key=a b x=y', 'MAINTAINER me <m@e>'])
  })
})
