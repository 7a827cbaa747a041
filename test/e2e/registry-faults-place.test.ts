import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import type { ServerOptions } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import {
  type Authority,
  makeAuthority,
} from '../../packages/builder-daemon/src/registry/http/loopback.test-support.js'
import { type ConnectProxy, startConnectProxy } from '../support/connect-proxy.js'
import { answers, fails, flips, resets } from '../support/fake-registry/faults.js'
import { paths } from '../support/fake-registry/record.js'
import { type FakeRegistry, startFakeRegistry } from '../support/fake-registry.js'
import {
  blobPath,
  expectNothingNamed,
  expectPulled,
  lastLayer,
  newImage,
  type Target,
} from '../support/registry-content.js'
import { patience, startTransferDaemon, type TransferDaemon } from '../support/transfer-daemon.js'

// reliability.md 3.4, G14 and G15: mirrors, certificates and proxies.

let daemon: TransferDaemon
let origin: FakeRegistry
let mirror: FakeRegistry
let byDigest: FakeRegistry
let proxy: ConnectProxy
let work: string

beforeAll(async () => {
  work = mkdtempSync(join(tmpdir(), 'registry-place-'))
  origin = await startFakeRegistry()
  mirror = await startFakeRegistry()
  byDigest = await startFakeRegistry()
  proxy = await startConnectProxy()
  daemon = await startTransferDaemon({
    env: { https_proxy: proxy.url, HTTPS_PROXY: '', no_proxy: '', NO_PROXY: '' },
    files: {
      'registries.toml': `
[[registry]]
location = "${origin.host}"

[[registry.mirror]]
location = "${byDigest.host}/copies"
pull-from-mirror = "digest-only"

[[registry.mirror]]
location = "${mirror.host}/cache"
`,
    },
  })
})
afterAll(async () => {
  await daemon[Symbol.asyncDispose]()
  for (const server of [origin, mirror, byDigest, proxy]) await server[Symbol.asyncDispose]()
  rmSync(work, { recursive: true, force: true })
})
beforeEach(async () => {
  for (const registry of [origin, mirror, byDigest]) {
    registry.behave()
    registry.forget()
    registry.storage.repositories.clear()
  }
  proxy.refusal = undefined
  proxy.targets.splice(0)
  await daemon.clear()
})

describe('mirrors (G14)', () => {
  /** The same image at the registry and at its mirror. */
  function everywhere(): Target {
    const target = newImage(origin)
    const { blobs, manifests, tags } = origin.storage.repository('team/app')
    for (const [registry, name] of [
      [mirror, 'cache/team/app'],
      [byDigest, 'copies/team/app'],
    ] as const) {
      const copy = registry.storage.repository(name)
      for (const [digest, body] of blobs) copy.blobs.set(digest, body)
      for (const [digest, manifest] of manifests) copy.manifests.set(digest, manifest)
      for (const [tag, digest] of tags) copy.tags.set(tag, digest)
    }
    return target
  }

  test('are asked first, and for tags only those that may', async () => {
    const target = everywhere()
    await daemon.ok('pull', target.name)
    expect(origin.requests).toEqual([])
    expect(byDigest.requests).toEqual([])
    expect(mirror.requests.length).toBeGreaterThan(0)
    expect(await daemon.names()).toEqual([target.name])
    await expectPulled(daemon, origin, target)
  })

  test('for digests only are asked for digests', async () => {
    const { image } = everywhere()
    await daemon.ok('pull', `${origin.host}/team/app@${image.digest}`)
    expect(byDigest.requests.length).toBeGreaterThan(0)
    expect([...mirror.requests, ...origin.requests]).toEqual([])
  })

  test.each([
    ['does not have it', () => mirror.storage.repositories.clear()],
    ['refuses', () => void mirror.fail({ match: { path: /./ }, times: 1000, with: answers(403) })],
    ['is ill', () => void mirror.fail({ match: { path: /./ }, times: 1000, with: fails(500) })],
    ['breaks every connection', () => void mirror.fail({ match: { path: /./ }, times: 1000, with: resets })],
    [
      'serves a page',
      () => void mirror.fail({ match: { path: /./ }, times: 1000, with: answers(200, {}, '<html>') }),
    ],
  ])('that %s are passed over', async (_, spoil) => {
    const target = everywhere()
    spoil()
    await daemon.ok('pull', target.name)
    await expectPulled(daemon, origin, target)
    expect(origin.count({ path: paths.manifest })).toBeGreaterThan(0)
  })

  test('that have lost or falsified a layer are passed over for it', async () => {
    for (const fault of [fails(404), flips('50%')]) {
      const target = everywhere()
      mirror.fail({ match: { path: blobPath(lastLayer(target).digest) }, times: 1000, with: fault })
      await daemon.ok('pull', target.name)
      await expectPulled(daemon, origin, target)
    }
  })

  test('that all fail give an error with the last reason', async () => {
    const target = everywhere()
    mirror.fail({ match: { path: /./ }, times: 1000, with: fails(500) })
    origin.fail({ match: { path: /./ }, times: 1000, with: fails(503) })
    const text = await daemon.fails('pull', target.name)
    expect(text).toContain(origin.host)
    expect(text).toMatch(/503/)
    await expectNothingNamed(daemon)
  })

  test('are never pushed to', async () => {
    const name = await daemon.load(`${origin.host}/team/app:1`)
    await daemon.ok('push', name)
    expect([...mirror.requests, ...byDigest.requests]).toEqual([])
    expect(origin.violations).toEqual([])
  })
})

describe('certificates (G15)', () => {
  let authority: Authority
  let stranger: Authority
  beforeAll(() => {
    authority = makeAuthority(join(work, 'authority'))
    stranger = makeAuthority(join(work, 'stranger'))
  })

  const named = 'IP:127.0.0.1,DNS:registry.test'
  function trust(host: string, files: Readonly<Record<string, string>>): void {
    const directory = join(daemon.configDir, 'certs.d', host)
    mkdirSync(directory, { recursive: true })
    for (const [name, text] of Object.entries(files)) writeFileSync(join(directory, name), text)
  }

  test.each<[string, () => ServerOptions, RegExp]>([
    ['has ended', () => authority.issue('registry', named, '20200101000000Z'), /expired/i],
    ['is of another host', () => authority.issue('other', 'DNS:other.test'), /127\.0\.0\.1|other\.test/],
    [
      'is of an authority nobody knows',
      () => stranger.issue('registry', named),
      /authority|issuer|not trusted/i,
    ],
    [
      'is signed by itself',
      () => ({ key: readFileSync(join(work, 'stranger/ca.key')), cert: stranger.pem }),
      /self.?signed|127\.0\.0\.1/i,
    ],
    [
      'is good but of old TLS',
      () => ({
        ...authority.issue('registry', named),
        ...{ minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT:@SECLEVEL=0' },
      }),
      /TLS/,
    ],
  ])('one that %s is refused with the reason, and nothing is asked in the clear', async (_, tls, message) => {
    await using registry = await startFakeRegistry({ tls: tls() })
    trust(registry.host, { 'ca.crt': authority.pem })
    const target = newImage(registry)
    for (const command of ['pull', 'push']) {
      const name = command === 'pull' ? target.name : await daemon.load(`${registry.host}/team/app:2`, [1000])
      const text = await daemon.fails(command, '--tls-verify', name)
      expect(text).toMatch(message)
      expect(text).toContain(registry.host)
      expect(text).not.toMatch(/http:/)
    }
    expect(registry.requests).toEqual([])
  })

  test('one of an authority in certs.d is good, as is a client certificate there', async () => {
    const tls = { ...authority.issue('registry', named), ca: authority.pem, requestCert: true }
    await using registry = await startFakeRegistry({ tls })
    const target = newImage(registry)
    trust(registry.host, { 'ca.crt': authority.pem })
    const text = await daemon.fails('pull', '--tls-verify', target.name)
    expect(text).toMatch(/client certificate/i)
    expect(text).toContain('certs.d')
    const { cert, key } = authority.issue('client', 'DNS:client')
    trust(registry.host, { 'client.cert': cert, 'client.key': key })
    await daemon.ok('pull', '--tls-verify', target.name)
    await expectPulled(daemon, registry, target)
    await daemon.ok('push', '--tls-verify', target.name, `${registry.host}/team/copy:1`)
    expect(registry.violations).toEqual([])
  })

  test('plain HTTP is refused where a certificate is demanded', async () => {
    await using registry = await startFakeRegistry()
    const text = await daemon.fails('pull', '--tls-verify', newImage(registry).name)
    expect(text).toMatch(/TLS|https/)
    expect(registry.requests).toEqual([])
  })

  describe('behind a proxy', () => {
    test('a registry is reached, its certificate checked', async () => {
      await using registry = await startFakeRegistry({ tls: authority.issue('registry', named) })
      proxy.routes.set('registry.test:443', registry.port)
      const { image } = newImage(registry)
      const text = await daemon.fails('pull', '--retry=0', 'registry.test/team/app:1')
      expect(text).toMatch(/certificate|authority|issuer/)
      expect(registry.requests).toEqual([])
      trust('registry.test', { 'ca.crt': authority.pem })
      await daemon.ok('pull', 'registry.test/team/app:1')
      expect(registry.count({ path: blobPath(image.config.digest) })).toBe(1)
      expect(new Set(proxy.targets)).toEqual(new Set(['registry.test:443']))
    })

    test('that wants a password, it is said so', async () => {
      proxy.refusal = 'HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n'
      const text = await daemon.fails('pull', 'registry.test/team/app:1')
      expect(text).toMatch(/407/)
      expect(text).toMatch(/proxy/i)
      expect(proxy.targets.length).toBe(1)
    })

    test('that breaks off or talks nonsense, it fails in bounded time', async () => {
      for (const refusal of ['', 'SSH-2.0-OpenSSH_9.2\r\n', 'HTTP/1.1 503 Busy\r\n\r\n']) {
        proxy.refusal = refusal
        proxy.targets.splice(0)
        const text = await daemon.fails('pull', 'registry.test/team/app:1')
        expect(text).toContain('registry.test')
        expect(proxy.targets.length).toBeLessThanOrEqual(patience.retries + 1)
      }
    })

    test('that does not know a registry of plain HTTP, it is never asked in the clear', async () => {
      await using registry = await startFakeRegistry()
      newImage(registry)
      proxy.routes.set('plain.test:443', registry.port)
      proxy.routes.set('plain.test:80', registry.port)
      const text = await daemon.fails('pull', 'plain.test/team/app:1')
      expect(text).toContain('plain.test')
      expect(registry.requests).toEqual([])
      expect(new Set(proxy.targets)).toEqual(new Set(['plain.test:443']))
    })
  })
})
