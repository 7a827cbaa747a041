import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { answers, fails, hangsUp, resets } from '../support/fake-registry/faults.js'
import { type Match, paths } from '../support/fake-registry/record.js'
import { type FakeRegistry, startFakeRegistry } from '../support/fake-registry.js'
import { expectNothingNamed, expectPulled, newImage, pauses } from '../support/registry-content.js'
import { patience, startTransferDaemon, type TransferDaemon } from '../support/transfer-daemon.js'

// reliability.md 3.4, G01 and G02: failures that pass, and how long they are waited for.

let daemon: TransferDaemon
beforeAll(async () => {
  daemon = await startTransferDaemon()
})
afterAll(() => daemon[Symbol.asyncDispose]())
beforeEach(() => daemon.clear())

const attempts = patience.retries + 1
const auth = { kind: 'token', users: {}, anonymous: 'pull' } as const

const reads: readonly (readonly [string, Match])[] = [
  ['GET of a manifest', { method: 'GET', path: paths.manifest }],
  ['GET of a blob', { method: 'GET', path: paths.blob }],
  ['a token', { path: paths.token }],
]
const writes: readonly (readonly [string, Match])[] = [
  ['HEAD of a blob', { method: 'HEAD', path: paths.blob }],
  ['POST of an upload', { method: 'POST', path: paths.uploads }],
  ['PUT of a manifest', { method: 'PUT', path: paths.manifest }],
]

describe('what fails four times and then succeeds is done', () => {
  test.each(reads)('%s', async (_, match) => {
    await using registry = await startFakeRegistry({ auth })
    const target = newImage(registry, { sizes: [20_000] })
    const statuses = [500, 502, 503, 504]
    const rule = registry.fail({
      match,
      times: 4,
      with: (_request, count) => fails(statuses[count - 1] ?? 500),
    })
    await daemon.ok('pull', target.name)
    expect(rule.used()).toBe(4)
    await expectPulled(daemon, registry, target)
    expect(registry.violations).toEqual([])
  })

  test.each(writes)('%s', async (_, match) => {
    await using registry = await startFakeRegistry()
    const name = await daemon.load(`${registry.host}/team/app:1`, [20_000])
    const faults = [fails(503), resets, hangsUp, fails(429)]
    const rule = registry.fail({ match, times: 4, with: (_request, count) => faults[count - 1] ?? {} })
    await daemon.ok('push', name)
    expect(rule.used()).toBe(4)
    expect(registry.storage.repository('team/app').tags.has('1')).toBe(true)
    expect(registry.violations).toEqual([])
  })

  test('PUT of a blob', async () => {
    await using registry = await startFakeRegistry()
    const name = await daemon.load(`${registry.host}/team/app:1`, [20_000])
    const match = { method: ['PUT', 'PATCH'], path: paths.upload }
    const rule = registry.fail({ match, times: 4, with: fails(500) })
    await daemon.ok('push', name)
    expect(rule.used()).toBe(4)
    expect(registry.storage.repository('team/app').tags.has('1')).toBe(true)
    expect(registry.violations).toEqual([])
  })
})

describe('what goes on failing is given up after the fifth attempt, and named', () => {
  test.each(reads)('%s', async (_, match) => {
    await using registry = await startFakeRegistry({ auth })
    const target = newImage(registry, { sizes: [20_000] })
    const rule = registry.fail({ match, times: 100, with: fails(503) })
    const text = await daemon.fails('pull', target.name)
    expect(text).toContain(registry.host)
    expect(text).toMatch(/503 service unavailable/)
    expect(text).toMatch(/team\/app/)
    expect(text).toMatch(/5 attempts/)
    expect(rule.used()).toBe(attempts)
    await expectNothingNamed(daemon)
  })

  test.each(writes)('%s', async (_, match) => {
    await using registry = await startFakeRegistry()
    const name = await daemon.load(`${registry.host}/team/app:1`, [20_000])
    const rule = registry.fail({ match, times: 100, with: fails(500) })
    const text = await daemon.fails('push', name)
    expect(text).toContain(registry.host)
    expect(text).toMatch(/500 internal server error/)
    expect(text).toMatch(/5 attempts/)
    // The layer and the configuration are placed side by side; the first of them that fails ends the other.
    expect(rule.used()).toBeGreaterThanOrEqual(attempts)
    expect(rule.used()).toBeLessThanOrEqual(2 * attempts)
    expect(registry.storage.repository('team/app').tags.size).toBe(0)
    await daemon.bench.expectSound()
  })

  test('--retry=0 is one attempt', async () => {
    await using registry = await startFakeRegistry()
    const target = newImage(registry)
    const rule = registry.fail({ match: { path: paths.manifest }, times: 100, with: fails(503) })
    expect(await daemon.fails('pull', '--retry=0', target.name)).not.toMatch(/attempts/)
    expect(rule.used()).toBe(1)
  })

  test.each([400, 403, 404, 405, 501])('status %d is no failure that passes', async (status) => {
    await using registry = await startFakeRegistry()
    const target = newImage(registry)
    const rule = registry.fail({ match: { path: paths.manifest }, times: 100, with: fails(status) })
    expect(await daemon.fails('pull', target.name)).toMatch(new RegExp(`${status}|not found|does not exist`))
    expect(rule.used()).toBe(1)
    await expectNothingNamed(daemon)
  })
})

describe('429 with a wish', () => {
  const limited = (retryAfter?: string) =>
    answers(429, retryAfter === undefined ? {} : { 'retry-after': retryAfter })

  async function waitsAfter(registry: FakeRegistry, retryAfter?: () => string): Promise<number> {
    const target = newImage(registry, { sizes: [1000] })
    const match = { method: 'GET', path: paths.manifest }
    registry.fail({ match, with: () => limited(retryAfter?.()) })
    await daemon.ok('pull', target.name)
    return pauses(registry.requests.filter(({ path }) => paths.manifest.test(path)))[0] ?? Number.NaN
  }

  test('in seconds is granted', async () => {
    await using registry = await startFakeRegistry()
    const waited = await waitsAfter(registry, () => '2')
    expect(waited).toBeGreaterThanOrEqual(1990)
    expect(waited).toBeLessThan(3900)
  })

  test('as a date is granted', async () => {
    await using registry = await startFakeRegistry()
    let wanted = 0
    const waited = await waitsAfter(registry, () => {
      const date = new Date(Math.ceil(Date.now() / 1000) * 1000 + 1000)
      wanted = date.getTime() - Date.now()
      return date.toUTCString()
    })
    expect(waited).toBeGreaterThan(wanted - 500)
    expect(waited).toBeLessThan(wanted + 2000)
  })

  test('that lies in the past, is no date or is not there costs the usual wait', async () => {
    for (const wish of ['Thu, 01 Jan 2015 00:00:00 GMT', '-5', 'soon', undefined]) {
      await using registry = await startFakeRegistry()
      const waited = await waitsAfter(registry, wish === undefined ? undefined : () => wish)
      expect(waited, wish ?? 'none').toBeLessThan(2000)
    }
  })

  test('for a day is cut to two minutes, and can be cancelled', async () => {
    await using registry = await startFakeRegistry()
    const target = newImage(registry)
    registry.fail({ match: { path: paths.manifest }, times: 100, with: limited('99999') })
    const { child, ended } = daemon.start('pull', target.name)
    await expect.poll(() => daemon.log(), { timeout: 15_000 }).toMatch(/"delay":120000,.*registry\.retry/)
    child.kill('SIGINT')
    await ended
    expect(registry.count({ path: paths.manifest })).toBe(1)
    await expectNothingNamed(daemon)
  })
})
