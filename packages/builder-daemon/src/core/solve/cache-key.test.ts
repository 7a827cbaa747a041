import { describe, expect, test } from 'vitest'
import type { ImageVertex, Plan, Vertex, VertexId } from '../plan/plan.js'
import { copies, fakeImage, fakeResolver, planLines, runs } from '../plan/plan-fixture.js'
import { type KeyContext, staticKey } from './cache-key.js'

const context: KeyContext = { parent: 'p', inputs: [] }

async function runKey(lines: readonly string[], buildArgs = {}, more: KeyContext = context): Promise<string> {
  return lastKey(await planLines(['FROM busybox', ...lines], { buildArgs }), more)
}

function lastKey(plan: Plan, more: KeyContext = context): string {
  const vertex = plan.vertices.at(-1)
  if (vertex === undefined) throw new Error('the plan has no vertex')
  return staticKey(vertex, more).key
}

function imageVertex(reference: string, platform = { os: 'linux', architecture: 'amd64' }): ImageVertex {
  return {
    kind: 'image',
    id: 'i' as VertexId,
    step: 1,
    stageIndex: 0,
    source: { file: '', lines: [], start: { line: 1, column: 0 }, end: { line: 1, column: 0 } },
    platform,
    image: fakeImage(reference),
  }
}

describe('the key of an image', () => {
  test('is that of its layers and platform, not of its name or config', () => {
    const vertex = imageVertex('a')
    const { key } = staticKey(vertex, { inputs: [] })
    const { image } = vertex
    const renamed = { ...image, reference: 'b', id: 'f'.repeat(64) }
    const reconfigured = { ...renamed, config: { ...image.config, config: { Env: ['X=1'] } } }
    expect(staticKey({ ...vertex, image: reconfigured }, { inputs: [] }).key).toBe(key)
    expect(staticKey(imageVertex('b'), { inputs: [] }).key).not.toBe(key)
    const arm = { os: 'linux', architecture: 'arm64' }
    expect(staticKey(imageVertex('a', arm), { inputs: [] }).key).not.toBe(key)
  })
})

describe('the parts of an ADD', () => {
  test('hold no password of a URL', async () => {
    const plan = await planLines(['FROM busybox', 'ADD https://user:TOKEN@h/f /'])
    const [vertex] = copies(plan)
    if (vertex === undefined) throw new Error('the plan copies nothing')
    const text = JSON.stringify(staticKey(vertex, context).parts)
    expect(text).toContain('@h/f')
    expect(text).not.toContain('TOKEN')
  })
})

describe('the key of a RUN', () => {
  test('is the same however the Dockerfile comes to it', async () => {
    const plain = await runKey(['RUN echo'])
    expect(await runKey(['# comment', 'LABEL a=b', 'EXPOSE 80', 'run   echo'])).toBe(plain)
    const early = await planLines(['FROM busybox AS a', 'FROM busybox', 'RUN echo'])
    expect(lastKey(early)).toBe(plain)
  })

  test('changes with everything it runs in', async () => {
    const keys = await Promise.all([
      runKey(['RUN echo']),
      runKey(['RUN echo 1']),
      runKey(['ENV A=1', 'RUN echo']),
      runKey(['ARG A=2', 'RUN echo']),
      runKey(['ARG A=2', 'RUN echo'], { A: '3' }),
      runKey(['USER 1', 'RUN echo']),
      runKey(['SHELL ["/bin/x"]', 'RUN echo']),
      runKey(['RUN --network=none echo']),
      runKey(['RUN --security=insecure echo']),
      runKey(['RUN --mount=target=/x echo']),
      runKey(['RUN --mount=target=/y echo']),
      runKey(['RUN --mount=type=secret,id=a echo']),
      runKey(['RUN --mount=type=secret,id=b echo']),
      runKey(['RUN --mount=type=cache,target=/x echo']),
      runKey(['RUN echo'], {}, { parent: 'q', inputs: [] }),
      runKey(['RUN echo'], {}, { ...context, fixedTime: 0 }),
      runKey(['RUN echo'], {}, { ...context, capabilities: ['CAP_SYS_ADMIN'] }),
      runKey(['RUN echo'], {}, { ...context, isolation: 'chroot' }),
      runKey(['RUN echo'], {}, { ...context, inputs: [''] }),
      runKey(['RUN echo'], {}, { ...context, inputs: ['k'] }),
    ])
    expect(new Set(keys).size).toBe(keys.length)
  })

  test('does not change with proxy settings', async () => {
    const lines = ['ARG http_proxy', 'RUN echo']
    expect(await runKey(lines, { http_proxy: 'a' })).toBe(await runKey(lines, { http_proxy: 'b' }))
  })

  test('names the part that changed', async () => {
    const plans = await Promise.all(
      ['1', '2'].map((value) =>
        planLines(['FROM busybox', 'RUN true'], {}, fakeResolver({ busybox: { Env: [`A=${value}`] } })),
      ),
    )
    const [first, second] = plans.map(
      (plan) => runs(plan).map((vertex) => staticKey(vertex, context).parts)[0] ?? [],
    )
    const changed = first?.filter((part, i) => part.value !== second?.[i]?.value)
    expect(changed).toEqual([{ name: 'variable A', value: '1' }])
  })
})

describe('the key of a COPY', () => {
  test('changes with all it says, and not with the stage it names', async () => {
    const lines = [
      'COPY a /b',
      'COPY a /b/',
      'COPY b /b',
      'ADD a /b',
      'ADD --unpack=false a /b',
      'COPY --chown=null a /b',
      'COPY --chown=1 a /b',
      'COPY --chmod=1 a /b',
      'COPY --link a /b',
      'COPY --parents a /b',
      'COPY --exclude=x a /b',
      'COPY --exclude=x --exclude=y a /b',
      'COPY --from=busybox a /b',
      'ADD http://h/a /b',
    ]
    const keys = await Promise.all(
      lines.map(async (line) => {
        const vertex = copies(await planLines(['FROM scratch', line]))[0]
        return vertex === undefined ? '' : staticKey(vertex, context).key
      }),
    )
    expect(new Set(keys).size).toBe(lines.length)
    const named = (name: string) =>
      planLines([`FROM busybox AS ${name}`, 'FROM scratch', `COPY --from=${name} a /b`])
    expect(lastKey(await named('x'))).toBe(lastKey(await named('y')))
  })
})

test('parts are apart whatever stands in them', () => {
  const vertex: Vertex = { ...imageVertex('a'), kind: 'workdir', parent: null, path: 'x' as never, user: '' }
  const keys = [
    staticKey(vertex, { inputs: ['a', 'b'] }),
    staticKey(vertex, { inputs: ['ab', ''] }),
    staticKey(vertex, { inputs: ['a7:input 21:b'] }),
    staticKey(vertex, { inputs: ['\ud800'] }),
    staticKey(vertex, { inputs: ['\udc00'] }),
    staticKey(vertex, { parent: 'a', inputs: ['b'] }),
  ].map(({ key }) => key)
  expect(new Set(keys).size).toBe(keys.length)
  expect(keys.every((key) => /^[0-9a-f]{64}$/.test(key))).toBe(true)
})
