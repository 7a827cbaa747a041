import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { digestOf } from '../../packages/shared/src/oci/digest.js'
import { holds } from '../support/fake-registry/faults.js'
import { paths } from '../support/fake-registry/record.js'
import { type FakeRegistry, startFakeRegistry } from '../support/fake-registry.js'
import { type RealRegistry, startRealRegistry } from '../support/real-registry.js'
import { blobPath, expectPulled, newImage, type Target } from '../support/registry-content.js'
import { startTransferDaemon, type TransferDaemon } from '../support/transfer-daemon.js'

// `kill -9` of one of the three in the middle of a transfer: nothing half is named, and what was done stays done.

let daemon: TransferDaemon
beforeAll(async () => {
  daemon = await startTransferDaemon()
})
afterAll(() => daemon[Symbol.asyncDispose]())
afterEach(() => daemon.clear())

const mebibyte = 1 << 20
/** The second one is the one that is under way when somebody dies. */
const sizes = [3 * mebibyte, 8 * mebibyte, 2 * mebibyte]

const gets = (registry: FakeRegistry, digest: string) =>
  registry.requests.filter(({ method, path }) => method === 'GET' && blobPath(digest).test(path))

/** A registry whose second layer stops in the middle, when all others have come. */
async function stuckPull(): Promise<{
  readonly registry: FakeRegistry
  readonly target: Target
  readonly stuck: string
  readonly arrived: () => Promise<void>
}> {
  const registry = await startFakeRegistry()
  const target = newImage(registry, { sizes })
  const stuck = target.image.layers[1]?.digest ?? ''
  registry.fail({
    match: { path: blobPath(stuck) },
    with: { deliver: () => ({ kind: 'trickle', from: 4 * mebibyte, bytes: 2000, every: 100 }) },
  })
  const arrived = async (): Promise<void> => {
    const done = () => target.image.layers.filter(({ digest }) => gets(registry, digest).some(isWhole)).length
    await expect.poll(done, { timeout: 20_000 }).toBe(2)
    await expect
      .poll(() => gets(registry, stuck)[0]?.sent ?? 0, { timeout: 20_000 })
      .toBeGreaterThan(4 * mebibyte)
    // What was sent is on its way to the daemon's files.
    await new Promise((resolve) => setTimeout(resolve, 500))
  }
  return { registry, target, stuck, arrived }
}

const isWhole = ({ sent, ended }: FakeRegistry['requests'][number]): boolean =>
  ended !== undefined && sent > 0

describe('in the middle of a pull', () => {
  /** The rest of the layer that was under way, and nothing else. */
  async function expectContinued(registry: FakeRegistry, target: Target, stuck: string): Promise<void> {
    expect(await daemon.names()).toEqual([])
    await daemon.bench.expectSound()
    registry.behave()
    registry.forget()
    await daemon.ok('pull', target.name)
    for (const { digest } of target.image.layers) {
      expect(gets(registry, digest).map(({ headers }) => headers.range !== undefined)).toEqual(
        digest === stuck ? [true] : [],
      )
    }
    const [rest] = gets(registry, stuck)
    expect(rest?.sent).toBeLessThan(5 * mebibyte)
    await expectPulled(daemon, registry, target)
    await daemon.bench.expectSound()
  }

  test('the client', async () => {
    const { registry, target, stuck, arrived } = await stuckPull()
    await using _registry = registry
    const { child, ended } = daemon.start('pull', target.name)
    await arrived()
    child.kill('SIGKILL')
    await ended
    await expect.poll(() => gets(registry, stuck)[0]?.ended, { timeout: 15_000 }).toBeDefined()
    await expectContinued(registry, target, stuck)
  })

  test('the daemon', async () => {
    const { registry, target, stuck, arrived } = await stuckPull()
    await using _registry = registry
    const { ended } = daemon.start('pull', target.name)
    await arrived()
    await daemon.bench.kill()
    expect((await ended).status).not.toBe(0)
    await daemon.bench.restart()
    await expectContinued(registry, target, stuck)
  })

  test('the daemon, twice', async () => {
    const { registry, target, stuck, arrived } = await stuckPull()
    await using _registry = registry
    const first = daemon.start('pull', target.name)
    await arrived()
    await daemon.bench.kill()
    await first.ended
    await daemon.bench.restart()
    registry.fail({
      match: { path: blobPath(stuck) },
      with: { deliver: () => ({ kind: 'trickle', from: mebibyte, bytes: 2000, every: 100 }) },
    })
    const second = daemon.start('pull', target.name)
    await expect.poll(() => gets(registry, stuck).length, { timeout: 10_000 }).toBe(2)
    await new Promise((resolve) => setTimeout(resolve, 500))
    await daemon.bench.kill()
    await second.ended
    await daemon.bench.restart()
    await expectContinued(registry, target, stuck)
  })

  test('the registry', async () => {
    await using registry = await startRealRegistry()
    const name = await daemon.load(
      `${registry.host}/team/app:1`,
      sizes.map((size) => size * 8),
    )
    await daemon.ok('push', name)
    await daemon.clear()
    const pull = daemon.start('pull', name)
    const began = performance.now()
    while (blobGets(registry).length === 0 && performance.now() - began < 300) {
      await new Promise((resolve) => setTimeout(resolve, 2))
    }
    await registry.kill()
    const { status } = await pull.ended
    if (status !== 0) {
      expect(await daemon.names()).toEqual([])
      await daemon.bench.expectSound()
      await registry.start()
      await daemon.ok('pull', name)
    }
    expect(await daemon.names()).toEqual([name])
    await daemon.bench.expectSound()
  })
})

const blobGets = (registry: RealRegistry) =>
  registry.requests().filter((line) => /^GET \/v2\/.*\/blobs\/\S+ 20/.test(line))

describe('in the middle of a push', () => {
  /** Layers of `sizes`; the upload of the biggest waits for ever, when all others and the configuration are done. */
  async function stuckPush(): Promise<{
    readonly registry: FakeRegistry
    readonly name: string
    readonly arrived: () => Promise<void>
  }> {
    const registry = await startFakeRegistry()
    const name = await daemon.load(`${registry.host}/team/app:1`, sizes)
    const isBig = ({ method, headers }: FakeRegistry['requests'][number]): boolean =>
      method === 'PUT' && Number(headers['content-length']) > 7 * mebibyte
    registry.fail({ match: isBig, times: 100, with: holds(new Promise(() => undefined)) })
    const arrived = async (): Promise<void> => {
      const { blobs } = registry.storage.repository('team/app')
      await expect.poll(() => [...blobs].length, { timeout: 20_000 }).toBe(3)
      await expect.poll(() => registry.requests.filter(isBig).length, { timeout: 20_000 }).toBe(1)
      await new Promise((resolve) => setTimeout(resolve, 300))
    }
    return { registry, name, arrived }
  }

  /** The layer that was under way, and nothing else. */
  async function expectContinued(registry: FakeRegistry, name: string): Promise<void> {
    expect(registry.storage.repository('team/app').tags.size).toBe(0)
    await daemon.bench.expectSound()
    registry.behave()
    registry.forget()
    await daemon.ok('push', name)
    const uploads = registry.requests.filter(
      ({ method, path }) => method !== 'POST' && paths.upload.test(path),
    )
    expect(uploads.filter(({ received }) => received > mebibyte).length).toBe(1)
    expect(uploads.filter(({ status }) => status === 201).length).toBe(1)
    expect(registry.violations).toEqual([])
    const { tags, manifests } = registry.storage.repository('team/app')
    const manifest = manifests.get(tags.get('1') ?? '')
    const { config, layers } = JSON.parse(manifest?.bytes.toString() ?? '{}')
    for (const { digest } of [config, ...layers]) {
      expect(digestOf(registry.storage.read('team/app', digest))).toBe(digest)
    }
    await daemon.bench.expectSound()
  }

  test('the client', async () => {
    const { registry, name, arrived } = await stuckPush()
    await using _registry = registry
    const { child, ended } = daemon.start('push', '--retry=100', name)
    await arrived()
    child.kill('SIGKILL')
    await ended
    await expect.poll(() => registry.connections(), { timeout: 15_000 }).toBeLessThan(5)
    await expectContinued(registry, name)
  })

  test('the daemon', async () => {
    const { registry, name, arrived } = await stuckPush()
    await using _registry = registry
    const { ended } = daemon.start('push', '--retry=100', name)
    await arrived()
    await daemon.bench.kill()
    expect((await ended).status).not.toBe(0)
    await daemon.bench.restart()
    await expectContinued(registry, name)
  })

  test('the registry', async () => {
    await using registry = await startRealRegistry()
    const name = await daemon.load(
      `${registry.host}/team/app:1`,
      sizes.map((size) => size * 4),
    )
    const push = daemon.start('push', '--retry=0', name)
    await expect
      .poll(() => registry.requests().some((line) => line.startsWith('POST ')), {
        timeout: 10_000,
        interval: 2,
      })
      .toBe(true)
    await registry.kill()
    const { status } = await push.ended
    await daemon.bench.expectSound()
    await registry.start()
    if (status !== 0)
      expect(registry.requests().some((line) => /^PUT \S+manifests\S+ 201/.test(line))).toBe(false)
    await daemon.ok('push', name)
    await daemon.clear()
    await daemon.ok('pull', name)
    await daemon.bench.expectSound()
  })

  test('the registry, when half of it is there: it is waited for', async () => {
    await using registry = await startRealRegistry()
    const name = await daemon.load(
      `${registry.host}/team/app:1`,
      sizes.map((size) => size * 4),
    )
    const push = daemon.start('push', '--retry=20', '--retry-delay=200ms', name)
    await expect
      .poll(() => registry.requests().some((line) => line.startsWith('POST ')), {
        timeout: 10_000,
        interval: 2,
      })
      .toBe(true)
    await registry.kill()
    await new Promise((resolve) => setTimeout(resolve, 300))
    await registry.start()
    const { status, stderr } = await push.ended
    expect(`${status} ${stderr}`).toBe('0 ')
    await daemon.clear()
    await daemon.ok('pull', name)
    await daemon.bench.expectSound()
  })
})
