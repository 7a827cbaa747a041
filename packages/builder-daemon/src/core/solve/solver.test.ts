import { expect, test } from 'vitest'
import { deferred } from '../build/deferred.js'
import type { Plan, Vertex, VertexId } from '../plan/plan.js'
import { solve } from './solver.js'

const id = (name: string): VertexId => name as VertexId

/** `a`, or `b<a` for one that stands on another, or `c<a,b` for one that also copies from others. */
function planOf(...texts: readonly string[]): Plan {
  const source = { file: 'Dockerfile', start: { line: 1, column: 1 }, end: { line: 1, column: 1 } }
  const vertices = texts.map((text): Vertex => {
    const [name = '', needs = ''] = text.split('<')
    const [parent, ...others] = needs === '' ? [] : needs.split(',')
    return {
      ...{ kind: 'copy', id: id(name), step: 1, stageIndex: 0, source, instruction: 'COPY' },
      ...{ platform: { os: 'linux', architecture: 'amd64' }, destination: '/', intoDirectory: true },
      ...{ chown: undefined, chmod: undefined, link: false, parents: false, excludes: [] },
      parent: parent === undefined ? null : id(parent),
      inputs: others.map((other) => ({ kind: 'vertex', vertex: id(other), pattern: '/', unpack: false })),
    } as unknown as Vertex
  })
  return { vertices } as unknown as Plan
}

const never = new AbortController().signal

test('a vertex runs when all it needs is done, and is given the results', async () => {
  const order: string[] = []
  const results = await solve(planOf('a', 'b<a', 'c', 'd<b,c'), {
    signal: never,
    async execute(vertex, done) {
      if (vertex.id === 'd') expect([done.get(id('b')), done.get(id('c'))]).toEqual(['B', 'C'])
      order.push(vertex.id)
      return vertex.id.toUpperCase()
    },
  })
  expect([...results.values()].sort()).toEqual(['A', 'B', 'C', 'D'])
  expect(order.indexOf('a')).toBeLessThan(order.indexOf('b'))
  expect(order.at(-1)).toBe('d')
})

test('what does not depend on one another runs at once', async () => {
  const all = deferred<void>()
  let running = 0
  await solve(planOf('a', 'b', 'c'), {
    signal: never,
    async execute() {
      running++
      if (running === 3) all.resolve()
      await all.promise
    },
  })
  expect(running).toBe(3)
})

test('the first failure aborts the others, is waited for and is what rejects', async () => {
  const log: string[] = []
  const solving = solve(planOf('a', 'slow', 'after<slow', 'child<a'), {
    signal: never,
    async execute(vertex, _, signal) {
      log.push(`start ${vertex.id}`)
      if (vertex.id === 'a') throw new Error('first')
      await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
      await new Promise((resolve) => setImmediate(resolve))
      log.push('slow stopped')
      throw new Error('second')
    },
  })
  await expect(solving).rejects.toThrow('first')
  expect(log.sort()).toEqual(['slow stopped', 'start a', 'start slow'])
})

test('a vertex that ends well after a failure starts nothing more', async () => {
  const started: string[] = []
  const solving = solve(planOf('a', 'slow', 'after<slow'), {
    signal: never,
    async execute(vertex, _, signal) {
      started.push(vertex.id)
      if (vertex.id === 'a') throw new Error('first')
      await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()))
    },
  })
  await expect(solving).rejects.toThrow('first')
  expect(started.sort()).toEqual(['a', 'slow'])
})

test('a cancelled build starts nothing', async () => {
  let started = 0
  const solving = solve(planOf('a', 'b'), {
    signal: AbortSignal.abort(),
    async execute() {
      started++
    },
  })
  await expect(solving).rejects.toMatchObject({ code: 'ISB_CANCELLED' })
  expect(started).toBe(0)
})

test('cancelling reaches what runs', async () => {
  const cancel = new AbortController()
  const solving = solve(planOf('a', 'b<a'), {
    signal: cancel.signal,
    execute: (_, __, signal) =>
      new Promise((_, reject) => {
        signal.addEventListener('abort', () => reject(new Error('stopped')))
        cancel.abort()
      }),
  })
  await expect(solving).rejects.toThrow('stopped')
})

test('a plan that is not sorted is a broken invariant', async () => {
  const solving = solve(planOf('b<a', 'a'), { signal: never, execute: async () => undefined })
  await expect(solving).rejects.toThrow('vertex b precedes its dependency a')
})

test('an empty plan has no results', async () => {
  expect((await solve(planOf(), { signal: never, execute: async () => 1 })).size).toBe(0)
})
