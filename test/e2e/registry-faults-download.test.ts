import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import {
  breaksOff,
  endlessHead,
  type Fault,
  flips,
  headers,
  partial,
  resets,
  saysNothing,
  trickles,
  truncates,
} from '../support/fake-registry/faults.js'
import { paths } from '../support/fake-registry/record.js'
import { reply } from '../support/fake-registry/reply.js'
import { type FakeRegistry, startFakeRegistry } from '../support/fake-registry.js'
import {
  blobPath,
  downloadedBytes,
  expectNothingNamed,
  expectPulled,
  lastLayer,
  newImage,
  pullOver,
  type Target,
  withConnection,
} from '../support/registry-content.js'
import { patience, startTransferDaemon, type TransferDaemon } from '../support/transfer-daemon.js'

// reliability.md 3.4, G03, G04 and G05: blobs that come in pieces, are something else, or do not come.

let daemon: TransferDaemon
beforeAll(async () => {
  daemon = await startTransferDaemon()
})
afterAll(() => daemon[Symbol.asyncDispose]())
beforeEach(() => daemon.clear())

/** A pull whose biggest layer is answered with these faults, one after the other. */
function failing(registry: FakeRegistry, target: Target, ...faults: readonly Fault[]) {
  const path = blobPath(lastLayer(target).digest)
  registry.fail({
    match: { method: 'GET', path },
    times: faults.length,
    with: (_request, count) => faults[count - 1] ?? {},
  })
  return () =>
    registry.requests
      .filter((request) => request.method === 'GET' && path.test(request.path))
      .map((request) => request.headers.range)
}

describe('a blob that breaks off goes on where it was', () => {
  const size = (target: Target): number => lastLayer(target).size
  test.each<[string, (size: number) => Fault, (size: number) => string | undefined]>([
    ['before its first byte', () => breaksOff(0), () => undefined],
    ['after one byte', () => breaksOff(1), () => 'bytes=1-'],
    ['in the middle', (bytes) => breaksOff(bytes >> 1), (bytes) => `bytes=${bytes >> 1}-`],
    ['before its last byte', () => breaksOff(-1), (bytes) => `bytes=${bytes - 1}-`],
    ['as if it were shorter', () => truncates('50%'), (bytes) => `bytes=${Math.floor(bytes / 2)}-`],
    ['as if it were empty', () => truncates(0), () => undefined],
    ['by silence', () => breaksOff('50%', 'stall'), (bytes) => `bytes=${Math.floor(bytes / 2)}-`],
  ])('%s', async (_, fault, range) => {
    await using registry = await startFakeRegistry()
    const target = newImage(registry)
    const ranges = failing(registry, target, fault(size(target)))
    await daemon.ok('pull', target.name)
    expect(ranges()).toEqual([undefined, range(size(target))])
    await expectPulled(daemon, registry, target)
  })

  test('by a reset, wherever that is noticed', async () => {
    await using registry = await startFakeRegistry()
    const target = newImage(registry)
    const ranges = failing(registry, target, breaksOff('50%', 'reset'), resets)
    await daemon.ok('pull', target.name)
    const [first, second, third] = ranges()
    expect([first, third]).toEqual([undefined, second])
    await expectPulled(daemon, registry, target)
  })

  test('and starts over where the registry knows no Range', async () => {
    await using registry = await startFakeRegistry({ abilities: { ranges: false } })
    const target = newImage(registry)
    const ranges = failing(registry, target, breaksOff('50%'), breaksOff('80%'))
    await daemon.ok('pull', target.name)
    expect(ranges().length).toBe(3)
    await expectPulled(daemon, registry, target)
  })

  test('and is given up after five attempts that bring nothing, but kept for the next pull', async () => {
    await using registry = await startFakeRegistry()
    const target = newImage(registry)
    const half = Math.floor(size(target) / 2)
    const nothing = Array.from({ length: patience.retries }, () => breaksOff(0))
    const ranges = failing(registry, target, breaksOff('50%'), ...nothing)
    const text = await daemon.fails('pull', target.name)
    expect(text).toContain(lastLayer(target).digest)
    expect(text).toContain(registry.host)
    expect(text).toMatch(/5 attempts/)
    expect(ranges().length).toBe(patience.retries + 1)
    expect(downloadedBytes(daemon)).toBeGreaterThanOrEqual(half)
    await expectNothingNamed(daemon)
    registry.forget()
    await daemon.ok('pull', target.name)
    expect(ranges()).toEqual([`bytes=${half}-`])
    expect(registry.count({ path: blobPath(target.image.layers[0]?.digest ?? '') })).toBe(0)
    await expectPulled(daemon, registry, target)
  })
})

describe('a blob that is not what it is called is refused and forgotten', () => {
  async function expectRefused(registry: FakeRegistry, target: Target, message: RegExp): Promise<void> {
    const text = await daemon.fails('pull', target.name)
    expect(text).toMatch(message)
    expect(text).toContain(registry.host)
    expect(text).toContain('team/app')
    await expectNothingNamed(daemon)
  }

  test.each<[string, Fault, RegExp]>([
    ['one bit is another', flips('50%'), /has digest sha256:/],
    ['it is compressed once more', headers({ 'content-encoding': 'gzip' }), /Content-Encoding/],
    ['only a part of it comes', partial(0, 1000, 'bytes 0-999/300000'), /206/],
    ['it is longer', { change: () => reply(200, {}, Buffer.alloc(400_000)) }, /bytes|longer/],
    [
      'it is longer than it says',
      {
        change: () => ({
          ...reply(200, {}, Buffer.alloc(400_000)),
          headers: { 'transfer-encoding': 'chunked' },
        }),
      },
      /longer/,
    ],
    [
      'it is a page',
      { change: () => reply(200, { 'content-type': 'text/html' }, Buffer.from('<html>')) },
      /./,
    ],
  ])('%s', async (_, fault, message) => {
    await using registry = await startFakeRegistry()
    const target = newImage(registry, { sizes: [300_000] })
    const ranges = failing(registry, target, ...Array.from({ length: 20 }, () => fault))
    await expectRefused(registry, target, message)
    expect(ranges().length).toBeLessThanOrEqual(patience.retries + 1)
    registry.behave()
    await daemon.ok('pull', target.name)
    await expectPulled(daemon, registry, target)
  })

  test.each<[string, Readonly<Record<string, string | undefined>>]>([
    ['another place', { 'content-range': 'bytes 5-99/100' }],
    ['the start', { 'content-range': 'bytes 0-299999/300000' }],
    ['nothing', { 'content-range': undefined }],
    ['nonsense', { 'content-range': 'pages 1-2/3' }],
  ])('the rest of it is said to be %s', async (_, lie) => {
    await using registry = await startFakeRegistry()
    const target = newImage(registry)
    failing(registry, target, breaksOff('50%'), headers(lie))
    await expectRefused(registry, target, /Content-Range/)
    await daemon.ok('pull', target.name)
    await expectPulled(daemon, registry, target)
  })

  test('the manifest says another size', async () => {
    await using registry = await startFakeRegistry()
    for (const change of [-1, 1]) {
      const honest = newImage(registry)
      const layers = honest.image.layers.map((layer) => ({ ...layer, size: layer.size + change }))
      const { config } = honest.image
      const document = { schemaVersion: 2, mediaType: honest.image.mediaType, config, layers }
      registry.addDocument('team/app', '1', honest.image.mediaType, JSON.stringify(document))
      await expectRefused(registry, honest, /bytes/)
    }
  })

  test('the configuration is another one', async () => {
    await using registry = await startFakeRegistry()
    const target = newImage(registry)
    const path = blobPath(target.image.config.digest)
    registry.fail({ match: { path }, times: 20, with: flips() })
    await expectRefused(registry, target, /digest/)
  })
})

describe('a registry that is slow', () => {
  test.each<[string, Fault]>([
    ['a byte now and then', trickles(1, 100)],
    ['stalls at once', breaksOff(0, 'stall')],
    ['says nothing', saysNothing],
    ['a head without end', endlessHead(10, 50)],
    ['a head that is too long', endlessHead(10_000, 1)],
  ])('is given up in time: %s', async (_, fault) => {
    await using registry = await startFakeRegistry()
    const target = newImage(registry)
    failing(registry, target, ...Array.from({ length: 20 }, () => fault))
    const began = performance.now()
    const text = await daemon.fails('pull', '--retry=1', target.name)
    expect(performance.now() - began).toBeLessThan(2 * patience.idle * 1000 + 4000)
    expect(text).toContain(registry.host)
    await expect.poll(() => registry.connections(), { timeout: 15_000 }).toBeLessThanOrEqual(1)
    await expectNothingNamed(daemon)
  })

  test('does not hinder a pull from another one', async () => {
    await using slow = await startFakeRegistry()
    await using quick = await startFakeRegistry()
    const stuck = newImage(slow)
    const target = newImage(quick)
    failing(slow, stuck, ...Array.from({ length: 20 }, () => breaksOff('50%', 'stall')))
    const { child, ended } = daemon.start('pull', '--retry=100', stuck.name)
    await expect.poll(() => slow.count({ path: blobPath(lastLayer(stuck).digest) })).toBeGreaterThan(0)
    await daemon.ok('pull', target.name)
    expect(child.exitCode).toBe(null)
    child.kill('SIGTERM')
    await ended
  })

  test('with fifty downloads that stall still serves the next', async () => {
    await using registry = await startFakeRegistry()
    const stuck = Array.from({ length: 50 }, (_, index) =>
      newImage(registry, { repository: `stuck/app-${index}`, sizes: [50_000] }),
    )
    const target = newImage(registry)
    registry.fail({
      match: ({ path }) => path.includes('/stuck/') && paths.blob.test(path),
      times: 1000,
      with: breaksOff('50%', 'stall'),
    })
    await withConnection(daemon, async (connection) => {
      const pulls = stuck.map(({ name }) => pullOver(connection, name))
      const ends = pulls.map(({ ended }) => ended.then(() => 'done').catch((error: Error) => error.message))
      await expect
        .poll(() => registry.count({ path: /stuck.*blobs/ }), { timeout: 10_000 })
        .toBeGreaterThan(6)
      const began = performance.now()
      await daemon.ok('pull', target.name)
      expect(performance.now() - began).toBeLessThan(15_000)
      for (const pull of pulls) pull.cancel()
      expect((await Promise.all(ends)).filter((end) => end === 'done')).toEqual([])
    })
    await expect.poll(() => registry.connections(), { timeout: 15_000 }).toBeLessThan(10)
    await expectPulled(daemon, registry, target)
    await daemon.bench.expectSound()
  })
})
