import { expect, test } from 'vitest'
import { silentLogger } from '../../../../../test/support/silent-logger.js'
import { type Deferred, deferred } from '../build/deferred.js'
import { createSharedExecutions, type Execution, type Wish } from './shared-executions.js'

const calm = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

interface Build {
  readonly result: Promise<string>
  readonly cancel: () => void
  /** Its work, once it leads. */
  readonly led: Promise<Work>
}

interface Work extends Deferred<string> {
  readonly execution: Execution
}

/** Builds that want one thing; `log` says who led, adopted, was shown output, and when leases and output went. */
function bench() {
  const executions = createSharedExecutions<string>(silentLogger)
  const log: string[] = []
  const build = (name: string, more: Partial<Wish<string>> = {}): Build => {
    const abort = new AbortController()
    const led = deferred<Work>()
    const result = executions.run({
      key: 'k',
      signal: abort.signal,
      retain: () => async () => {
        log.push(`lease of ${name} released`)
      },
      async execute(execution) {
        log.push(`${name} leads`)
        const end = deferred<string>()
        execution.signal.addEventListener('abort', () => log.push(`work of ${name} aborted`))
        led.resolve({ ...end, execution })
        return await end.promise
      },
      async adopt(value) {
        log.push(`${name} adopts ${value}`)
        return `${value} for ${name}`
      },
      onOutput: (path) => void log.push(`${name} sees ${path}`),
      ...more,
    })
    result.catch(() => undefined)
    return { result, cancel: () => abort.abort(), led: led.promise }
  }
  return { build, log }
}

const cancelled = { code: 'ISB_CANCELLED' }

test('what several want is made once, and the lease lasts until all have taken theirs', async () => {
  const { build, log } = bench()
  const builds = ['a', 'b', 'c'].map((name) => build(name))
  const work = await builds[0]?.led
  work?.execution.detach()
  work?.resolve('x')
  expect(await Promise.all(builds.map(({ result }) => result))).toEqual(['x', 'x for b', 'x for c'])
  expect(log).toEqual(['a leads', 'b adopts x', 'c adopts x', 'lease of a released'])
})

test('what is over is made anew', async () => {
  const { build, log } = bench()
  for (const name of ['a', 'b']) {
    const { led, result } = build(name)
    ;(await led).resolve(name)
    expect(await result).toBe(name)
  }
  expect(log.filter((line) => line.endsWith('leads'))).toEqual(['a leads', 'b leads'])
})

test('other keys, and none, share nothing', async () => {
  const { build, log } = bench()
  const builds = [build('a'), build('b', { key: 'other' }), build('c', { key: undefined })]
  builds.push(build('d', { key: undefined }))
  for (const { led } of builds) (await led).resolve('x')
  await Promise.all(builds.map(({ result }) => result))
  expect(log.filter((line) => line.includes('adopts'))).toEqual([])
})

test('a leader who leaves before his work is detached hands over to the next in line', async () => {
  const { build, log } = bench()
  const [a, b, c] = [build('a'), build('b'), build('c')]
  const first = await a.led
  a.cancel()
  const second = await b.led
  expect(log).toEqual(['a leads', 'work of a aborted', 'b leads'])
  // What the work uses of its client is there until it has ended.
  let isGone = false
  a.result.catch(() => {
    isGone = true
  })
  await calm()
  expect(isGone).toBe(false)
  first.reject(new Error('stopped'))
  await expect(a.result).rejects.toMatchObject(cancelled)
  second.resolve('x')
  expect(await Promise.all([b.result, c.result])).toEqual(['x', 'x for c'])
})

test('detached work goes on without its leader', async () => {
  const { build, log } = bench()
  const [a, b] = [build('a'), build('b')]
  const work = await a.led
  work.execution.detach()
  a.cancel()
  await expect(a.result).rejects.toMatchObject(cancelled)
  expect(log).toEqual(['a leads'])
  work.resolve('x')
  expect(await b.result).toBe('x for b')
  expect(log).toEqual(['a leads', 'b adopts x', 'lease of a released'])
})

test('one who is cancelled disturbs nobody; the last ends the work and waits for its end', async () => {
  const { build, log } = bench()
  const [a, b, c] = [build('a'), build('b'), build('c')]
  const work = await a.led
  work.execution.detach()
  for (const { cancel } of [b, a]) cancel()
  await expect(a.result).rejects.toMatchObject(cancelled)
  await expect(b.result).rejects.toMatchObject(cancelled)
  expect(log).toEqual(['a leads'])
  c.cancel()
  let isGone = false
  c.result.catch(() => {
    isGone = true
  })
  await calm()
  expect([isGone, ...log]).toEqual([false, 'a leads', 'work of a aborted'])
  work.reject(new Error('stopped'))
  await expect(c.result).rejects.toMatchObject(cancelled)
  expect(log.at(-1)).toBe('lease of a released')
})

test('nobody joins work that was given up', async () => {
  const { build, log } = bench()
  const a = build('a')
  const work = await a.led
  work.execution.detach()
  a.cancel()
  await calm()
  const b = build('b')
  ;(await b.led).resolve('fresh')
  expect(await b.result).toBe('fresh')
  work.resolve('late')
  await expect(a.result).rejects.toMatchObject(cancelled)
  expect(log).toEqual([
    'a leads',
    'work of a aborted',
    'b leads',
    'lease of b released',
    'lease of a released',
  ])
})

test('detached work that fails fails everybody with the same error', async () => {
  const { build } = bench()
  const [a, b] = [build('a'), build('b')]
  const work = await a.led
  work.execution.detach()
  const error = new Error('no space')
  work.reject(error)
  await expect(a.result).rejects.toBe(error)
  await expect(b.result).rejects.toBe(error)
})

test('work that fails with what is its leader’s fails only him', async () => {
  const { build } = bench()
  const [a, b] = [build('a'), build('b')]
  ;(await a.led).reject(new Error('a may not read this'))
  await expect(a.result).rejects.toThrow('a may not read this')
  ;(await b.led).resolve('x')
  expect(await b.result).toBe('x')
})

test('a result that is gone when it is adopted is made again', async () => {
  const { build } = bench()
  let tries = 0
  const a = build('a')
  const b = build('b', { adopt: async () => (tries++ === 0 ? undefined : 'not reached') })
  ;(await a.led).resolve('x')
  ;(await b.led).resolve('y')
  expect(await Promise.all([a.result, b.result])).toEqual(['x', 'y'])
})

test('an adoption that fails is one build’s own', async () => {
  const { build, log } = bench()
  const [a, b, c] = [
    build('a'),
    build('b', { adopt: () => Promise.reject(new Error('damaged')) }),
    build('c'),
  ]
  ;(await a.led).resolve('x')
  await expect(b.result).rejects.toThrow('damaged')
  expect(await Promise.all([a.result, c.result])).toEqual(['x', 'x for c'])
  expect(log.filter((line) => line.includes('released'))).toEqual(['lease of a released'])
})

test('everybody hears of the output, also who comes later, and it goes when all are done', async () => {
  const { build, log } = bench()
  const [a, b] = [build('a'), build('b')]
  const work = await a.led
  work.execution.detach()
  work.execution.show({ path: '/out', [Symbol.dispose]: () => void log.push('output removed') })
  await calm()
  const c = build('c')
  await calm()
  b.cancel()
  await expect(b.result).rejects.toMatchObject(cancelled)
  work.resolve('x')
  await Promise.all([a.result, c.result])
  expect(log).toEqual([
    'a leads',
    'a sees /out',
    'b sees /out',
    'c sees /out',
    'c adopts x',
    'output removed',
    'lease of a released',
  ])
})

test('who cannot be shown the output fails alone', async () => {
  const { build } = bench()
  const a = build('a')
  const b = build('b', { onOutput: () => Promise.reject(new Error('no link')) })
  const work = await a.led
  work.execution.detach()
  work.execution.show({ path: '/out', [Symbol.dispose]: () => undefined })
  await expect(b.result).rejects.toThrow('no link')
  work.resolve('x')
  expect(await a.result).toBe('x')
})

test('a build that is over already wishes for nothing', async () => {
  const { build, log } = bench()
  await expect(build('a', { signal: AbortSignal.abort() }).result).rejects.toMatchObject(cancelled)
  expect(log).toEqual([])
})
