import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { describe, expect, test } from 'vitest'
import {
  copies,
  defaultPath,
  fakeImage,
  fakeResolver,
  historyTexts,
  lastEnvironment,
  planFailure,
  planLines,
  runs,
} from './plan-fixture.js'

describe('FROM', () => {
  test('scratch has no vertex, a PATH and the root as working directory', async () => {
    const { target, vertices } = await planLines(['FROM scratch'])
    expect(vertices).toEqual([])
    expect(target).toMatchObject({
      vertex: null,
      base: null,
      platform: { os: 'linux', architecture: 'amd64' },
    })
    expect(target.config).toEqual({ Env: [defaultPath], WorkingDir: '/' })
  })

  test('an image without PATH gets the default one at the end', async () => {
    const { target } = await planLines(['FROM img'], {}, fakeResolver({ img: { Env: ['A=1'] } }))
    expect(target.config.Env).toEqual(['A=1', defaultPath])
  })

  test('fields that Docker adds for its containers, and nulls, are left behind', async () => {
    const odd = { Env: null, Cmd: ['a'], Domainname: 'x', OnBuild: null } as never
    const { target } = await planLines(['FROM img'], {}, fakeResolver({ img: odd }))
    expect(target.config).toEqual({ Env: [defaultPath], Cmd: ['a'] })
  })

  test('is expanded with ARGs from before it, their defaults and build args', async () => {
    const resolver = fakeResolver({ 'busybox:2': {}, 'busybox:3': {} })
    await planLines(['ARG V=2', 'ARG I=busybox:$V', 'FROM ${I}'], {}, resolver)
    await planLines(['ARG V=2', 'ARG I=busybox:$V', 'FROM ${I}'], { buildArgs: { V: '3' } }, resolver)
    expect(resolver.asked).toEqual(['busybox:2 linux/amd64', 'busybox:3 linux/amd64'])
  })

  test('of nothing points at the line', async () => {
    const error = await planFailure(['ARG X', 'FROM $X'])
    expect(error.code).toBe('ISB_DOCKERFILE_SYNTAX')
    expect(error.details.source).toMatchObject({ start: { line: 2 }, file: 'Dockerfile' })
  })

  test('asks for the platform of --platform, else for that of the build', async () => {
    const resolver = fakeResolver({ b: {} })
    const options = { platform: { os: 'linux', architecture: 'arm', variant: 'v7' } }
    await planLines(
      ['FROM --platform=$BUILDPLATFORM busybox AS a', 'FROM b', 'COPY --from=a /x /x'],
      options,
      resolver,
    )
    expect([...resolver.asked].sort()).toEqual(['b linux/arm/v7', 'busybox linux/amd64'])
  })

  test.each(['nonsense/x', 'linux/amd64/v1/x', 'linux/'])('refuses the platform %s', async (platform) => {
    const error = await planFailure([`FROM --platform=${platform} busybox`])
    expect(error.code).toBe('ISB_PLATFORM_UNSUPPORTED')
    expect(error.message).toContain('platform')
    expect(error.details.source?.start.line).toBe(1)
  })

  test('resolves an image once, however often it is named', async () => {
    const resolver = fakeResolver()
    const plan = await planLines(
      ['FROM busybox AS a', 'FROM busybox', 'COPY --from=busybox /x /x', 'COPY --from=busybox /y /y'],
      {},
      resolver,
    )
    expect(resolver.asked).toEqual(['busybox linux/amd64'])
    expect(plan.vertices.filter((vertex) => vertex.step === 0)).toHaveLength(1)
  })

  test('thousands of images are asked for a few at a time, and no more after one that fails', async () => {
    let asking = 0
    let most = 0
    let asked = 0
    const resolver = {
      async resolve(reference: string) {
        asked += 1
        asking += 1
        most = Math.max(most, asking)
        await new Promise((resolve) => setImmediate(resolve))
        asking -= 1
        if (reference === 'x40' || reference === 'x41')
          throw new BuilderError('ISB_IMAGE_NOT_FOUND', reference)
        return fakeImage(reference)
      },
    }
    const named = Array.from({ length: 3000 }, (_, i) => `COPY --from=x${i} /a /a`)
    const planned = planLines(['FROM scratch', ...named], {}, resolver)
    await expect(planned).rejects.toMatchObject({
      message: 'x40',
      details: { source: { start: { line: 42 } } },
    })
    expect(most).toBeLessThanOrEqual(16)
    expect(asked).toBeLessThan(100)
  })

  test.each([
    ['steps', ['FROM scratch', ...Array.from({ length: 4900 }, (_, i) => `RUN ${i}`)]],
    ['stages', Array.from({ length: 4900 }, (_, i) => `FROM ${i === 0 ? 'scratch' : `s${i - 1}`} AS s${i}`)],
  ])('others get their turn while thousands of %s are planned', async (_what, lines) => {
    let turns = 0
    const other = setInterval(() => {
      turns += 1
    }, 0)
    try {
      await planLines(lines)
    } finally {
      clearInterval(other)
    }
    expect(turns).toBeGreaterThan(3)
  })

  test('an image error points at its line', async () => {
    const error = await planFailure(['FROM busybox', 'RUN true', 'FROM nope'])
    expect(error).toMatchObject({ code: 'ISB_IMAGE_NOT_FOUND' })
    expect(error.details.source?.start.line).toBe(3)
  })

  test('a misspelled stage is suggested', async () => {
    const error = await planFailure(['FROM busybox AS builder', 'FROM buildr'])
    expect(error.hint).toBe('Did you mean the stage builder?')
  })

  test('a stage that comes later is no base, and the hint says so', async () => {
    const error = await planFailure(['FROM later AS a', 'FROM busybox AS later', 'FROM a'])
    expect(error.code).toBe('ISB_IMAGE_NOT_FOUND')
    expect(error.hint).toContain('line 2')
  })

  test('stage names have no case', async () => {
    const plan = await planLines(['FROM busybox AS Build', 'RUN true', 'FROM BUILD'])
    expect(plan.target.vertex).toBe(runs(plan)[0]?.id)
  })

  test('a stage carries its config, variables and history on', async () => {
    const plan = await planLines(['FROM busybox AS a', 'ARG q=1', 'ENV E=2', 'USER u', 'FROM a', 'RUN true'])
    expect(lastEnvironment(plan)).toMatchObject({ q: '1', E: '2' })
    expect(runs(plan)[0]?.user).toBe('u')
    expect(historyTexts(plan)).toEqual([
      'ARG q=1',
      'ENV E=2',
      'USER u',
      'RUN |1 q=1 /bin/sh -c true # buildkit',
    ])
  })
})

describe('stages', () => {
  const three = ['FROM busybox AS a', 'RUN a', 'FROM busybox AS b', 'RUN b', 'FROM a AS c', 'RUN c']

  test('those the target does not need are left out, and steps are numbered without them', async () => {
    const plan = await planLines(three)
    expect(plan.steps.map(({ number, text, stage }) => `${number} ${stage} ${text}`)).toEqual([
      '1 a FROM busybox AS a',
      '2 a RUN a',
      '3 c FROM a AS c',
      '4 c RUN c',
    ])
    expect(plan.stages.map(({ index, name }) => `${index} ${name}`)).toEqual(['0 a', '2 c'])
    expect(plan.stages.at(-1)?.image).toBe(plan.target)
  })

  test('--target takes a name in any case, or an index', async () => {
    expect(runs(await planLines(three, { target: 'B' })).map(({ args }) => args.at(-1))).toEqual(['b'])
    expect(runs(await planLines(three, { target: '0' })).map(({ args }) => args.at(-1))).toEqual(['a'])
  })

  test('an unknown target suggests the nearest', async () => {
    const error = await planFailure(['FROM busybox AS release'], { target: 'relase' })
    expect(error).toMatchObject({ code: 'ISB_UNKNOWN_STAGE', hint: 'Did you mean release?' })
  })

  test.each([
    ['its own index', ['FROM busybox', 'COPY --from=0 /a /b'], 'circular'],
    ['its own name', ['FROM busybox AS a', 'COPY --from=A /a /b'], 'circular'],
    ['its own mount', ['FROM busybox AS a', 'RUN --mount=from=a,target=/x true'], 'circular'],
    ['an index that is not there', ['FROM busybox', 'COPY --from=5 /a /b'], 'invalid stage index 5'],
    ['a later stage', ['FROM busybox AS a', 'COPY --from=b /a /b', 'FROM busybox AS b', 'FROM a'], 'line 3'],
  ])('taking files from %s is an error', async (_, lines, message) => {
    const error = await planFailure(lines)
    expect(error.code).toBe('ISB_UNKNOWN_STAGE')
    expect(error.message).toContain(message)
    expect(error.details.source?.start.line).toBe(2)
  })

  test('--from is never expanded', async () => {
    const error = await planFailure(['ARG t=a', 'FROM busybox', 'ARG t', 'COPY --from=nope_${t} /x /x'])
    expect(error.message).toContain('variable expansion is not supported')
    expect(error.details.source?.start).toEqual({ line: 4, column: 12 })
  })

  test('COPY --from and mounts name stages by index too', async () => {
    const plan = await planLines([
      'FROM busybox',
      'RUN a',
      'FROM scratch',
      'COPY --from=0 /x /x',
      'RUN --mount=from=0,target=/m true',
    ])
    const vertex = runs(plan)[0]?.id
    expect(copies(plan)[0]?.inputs).toEqual([{ kind: 'vertex', vertex, pattern: '/x', unpack: false }])
    expect(runs(plan)[1]?.mounts[0]).toMatchObject({ from: { kind: 'vertex', vertex } })
  })

  test('ten thousand stages in a row plan without deep recursion, or say that they are too many', async () => {
    const chain = (length: number) => [
      'FROM scratch AS s0',
      ...Array.from({ length }, (_, i) => `FROM s${i} AS s${i + 1}`),
    ]
    expect((await planLines(chain(2000))).steps).toHaveLength(2001)
    expect((await planFailure(chain(10_000))).code).toBe('ISB_LIMIT_EXCEEDED')
  })
})

describe('named contexts', () => {
  const contexts = {
    base: { kind: 'image', reference: 'other' },
    assets: { kind: 'directory' },
    'docker.io/library/alpine:latest': { kind: 'image', reference: 'other' },
  } as const

  test('replace a stage of their name with all its instructions', async () => {
    const resolver = fakeResolver({ other: {} })
    const plan = await planLines(['FROM busybox AS Base', 'RUN x', 'FROM base'], { contexts }, resolver)
    expect(resolver.asked).toEqual(['other linux/amd64'])
    expect(runs(plan)).toEqual([])
  })

  test('replace an image under any of its names', async () => {
    const resolver = fakeResolver({ other: {} })
    await planLines(['FROM alpine'], { contexts }, resolver)
    await planLines(['FROM docker.io/alpine'], { contexts }, resolver)
    expect(resolver.asked).toEqual(['other linux/amd64', 'other linux/amd64'])
  })

  test('a directory is copied and mounted as a context, and copied when it is a base', async () => {
    const plan = await planLines(
      ['FROM assets', 'COPY --from=assets a /b', 'RUN --mount=from=assets,target=/m true'],
      { contexts },
    )
    const input = { kind: 'context', context: 'assets', unpack: false }
    expect(copies(plan).map((copy) => copy.inputs)).toEqual([
      [{ ...input, pattern: '.' }],
      [{ ...input, pattern: 'a' }],
    ])
    expect(runs(plan)[0]?.mounts[0]).toMatchObject({ from: { kind: 'context', context: 'assets' } })
    expect(plan.steps[0]?.vertex).toBe(copies(plan)[0]?.id)
  })
})

describe('ONBUILD', () => {
  const base = { ob: { OnBuild: ['ARG A', 'RUN echo $A', 'COPY --from=tools /t /t'] } }

  test('triggers of an image run first, may need more stages, and are gone then', async () => {
    const plan = await planLines(
      ['FROM busybox AS tools', 'RUN tools', 'FROM ob', 'RUN own', 'ONBUILD RUN next'],
      { buildArgs: { A: '1' } },
      fakeResolver(base),
    )
    expect(plan.steps.map(({ text }) => text)).toEqual([
      'FROM busybox AS tools',
      'RUN tools',
      'FROM ob',
      'ARG A',
      'RUN echo $A',
      'COPY --from=tools /t /t',
      'RUN own',
      'ONBUILD RUN next',
    ])
    expect(plan.target.config.OnBuild).toEqual(['RUN next'])
    expect(plan.warnings).toEqual([])
    expect(plan.steps[3]?.source.start.line).toBe(3)
  })

  test('triggers of a stage run in the stage built on it, and only there', async () => {
    const plan = await planLines([
      'FROM busybox AS a',
      'ONBUILD ENV T=1',
      'FROM a AS b',
      'FROM b',
      'RUN true',
    ])
    expect(historyTexts(plan)).toEqual(['ENV T=1', 'RUN /bin/sh -c true # buildkit'])
  })

  test.each(['NOSUCH x', 'ENV =1', 'FROM a', 'STOPSIGNAL $X', 'LABEL a="'])(
    'the broken trigger `%s` of an image is shown at the FROM that brings it',
    async (trigger) => {
      const resolver = fakeResolver({ ob: { OnBuild: [trigger] } })
      const error = await planFailure(['FROM busybox', 'FROM ob', 'RUN true'], { buildArgs: {} }, resolver)
      expect(error.message).toContain(`ONBUILD trigger \`${trigger}\``)
      expect(error.details.source).toMatchObject({
        file: 'Dockerfile',
        start: { line: 2 },
        lines: ['FROM ob'],
      })
    },
  )
})

describe('target options', () => {
  test('--label wins, --env gives way to ENV but not to the base', async () => {
    const { target } = await planLines(
      ['FROM img', 'ENV MINE=dockerfile', 'LABEL l=dockerfile'],
      { labels: { l: 'option' }, env: { MINE: 'option', BASE: 'option', NEW: 'option' } },
      fakeResolver({ img: { Env: [defaultPath, 'BASE=image'] } }),
    )
    expect(target.config.Env).toEqual([defaultPath, 'BASE=option', 'MINE=dockerfile', 'NEW=option'])
    expect(target.config.Labels).toEqual({ l: 'option' })
  })

  test('build args nobody declares are listed sorted; predefined ones are not', async () => {
    const buildArgs = { b: '', a: '', used: '', http_proxy: '', TARGETARCH: 'x', BUILDKIT_INLINE_CACHE: '1' }
    const plan = await planLines(['FROM busybox', 'ARG used'], { buildArgs })
    expect(plan.warnings).toEqual([{ message: 'One or more build-args [a b] were not consumed' }])
  })
})
