import { describe, expect, test } from 'vitest'
import type { Plan } from '../plan/plan.js'
import { copies, fakeResolver, planLines, runs } from '../plan/plan-fixture.js'
import { digestKeys, type ShapeContext, shapeOf } from './cache-key.js'

async function runKey(lines: readonly string[], buildArgs = {}, more: ShapeContext = {}): Promise<string> {
  return lastKey(await planLines(['FROM busybox', ...lines], { buildArgs }), more)
}

function lastKey(plan: Plan, more: ShapeContext = {}): string {
  const vertex = plan.vertices.at(-1)
  if (vertex === undefined || vertex.kind === 'image') throw new Error('the plan does nothing')
  return shapeOf(vertex, more).shape
}

describe('the parts of an ADD', () => {
  test('hold no password of a URL', async () => {
    const plan = await planLines(['FROM busybox', 'ADD https://user:TOKEN@h/f /'])
    const [vertex] = copies(plan)
    if (vertex === undefined) throw new Error('the plan copies nothing')
    const text = JSON.stringify(shapeOf(vertex).parts)
    expect(text).toContain('@h/f')
    expect(text).not.toContain('TOKEN')
  })
})

describe('the shape of a RUN', () => {
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
      runKey(['RUN echo'], {}, { fixedTime: 0 }),
      runKey(['RUN echo'], {}, { capabilities: ['CAP_SYS_ADMIN'] }),
      runKey(['RUN echo'], {}, { isolation: 'chroot' }),
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
    const [first, second] = plans.map((plan) => runs(plan).map((vertex) => shapeOf(vertex).parts)[0] ?? [])
    const changed = first?.filter((part, i) => part.value !== second?.[i]?.value)
    expect(changed).toEqual([{ name: 'variable A', value: '1' }])
  })
})

describe('the shape of a COPY', () => {
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
        return vertex === undefined ? '' : shapeOf(vertex).shape
      }),
    )
    expect(new Set(keys).size).toBe(lines.length)
    const named = (name: string) =>
      planLines([`FROM busybox AS ${name}`, 'FROM scratch', `COPY --from=${name} a /b`])
    expect(lastKey(await named('x'))).toBe(lastKey(await named('y')))
  })
})

test('keys are apart whatever stands in them', () => {
  const keys = [['a', 'b'], ['ab', ''], ['a1:12:b'], ['\ud800'], ['\udc00'], [], ['']].map(digestKeys)
  expect(new Set(keys).size).toBe(keys.length)
  expect(keys.every((key) => /^[0-9a-f]{64}$/.test(key))).toBe(true)
})
