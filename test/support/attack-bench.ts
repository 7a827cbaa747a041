import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, expect } from 'vitest'
import {
  type Authority,
  makeAuthority,
} from '../../packages/builder-daemon/src/registry/http/loopback.test-support.js'
import { type ConnectProxy, startConnectProxy } from './connect-proxy.js'
import { type FakeRegistry, type FakeRegistryOptions, startFakeRegistry } from './fake-registry.js'
import { filesHolding } from './hostile-bench.js'
import { startTransferDaemon, type TransferDaemon } from './transfer-daemon.js'

/** A daemon in a world of registries that want what is not theirs; the ones of `*.test` are of the internet to it. */
export interface AttackBench extends AsyncDisposable {
  readonly daemon: TransferDaemon
  readonly proxy: ConnectProxy
  /** Signs certificates that nobody trusts. */
  readonly stranger: Authority
  /** A password that was never used before, for the next test. */
  plant(): string
  /** A certificate that the daemon trusts. */
  certificate(name: string): ReturnType<Authority['issue']>
  publicRegistry(options?: FakeRegistryOptions, host?: string): Promise<FakeRegistry>
  /** What a server was told that looks like credentials, or is the password. */
  credentialsIn(registry: FakeRegistry): readonly string[]
  /** Nobody but who should know the password does: no file or log of the daemon, no message. */
  expectSecretKept(...texts: readonly string[]): void
}

/** Hosts whose certificates the daemon checks against the authority of the tests. */
const hosts = ['registry.test', 'auth.test', 'elsewhere.test']

export async function createAttackBench(): Promise<AttackBench> {
  const work = mkdtempSync(join(tmpdir(), 'registry-attacks-'))
  const authority = makeAuthority(join(work, 'authority'))
  const stranger = makeAuthority(join(work, 'stranger'))
  const proxy = await startConnectProxy()
  let secret = ''
  let daemon: TransferDaemon
  try {
    daemon = await startTransferDaemon({
      // A careless service manager.
      through: ['sh', '-c', 'umask 000; exec "$@"', 'sh'],
      registry: { retries: 1 },
      env: { https_proxy: proxy.url, HTTPS_PROXY: '', no_proxy: '', NO_PROXY: '' },
      files: {
        ...Object.fromEntries(hosts.map((host) => [`certs.d/${host}/ca.crt`, authority.pem])),
        'registries.toml': '[[registry]]\nlocation = "lax.test"\ninsecure = true\n',
      },
    })
  } catch (error) {
    await proxy[Symbol.asyncDispose]()
    rmSync(work, { recursive: true, force: true })
    throw error
  }
  const certificate = (name: string) => authority.issue('server', `DNS:${name}`)
  return {
    ...{ daemon, proxy, stranger, certificate },
    plant() {
      secret = `canary-${randomBytes(12).toString('hex')}`
      return secret
    },
    async publicRegistry(options = {}, host = 'registry.test') {
      const registry = await startFakeRegistry({ tls: certificate(host), ...options })
      proxy.routes.set(`${host}:443`, registry.port)
      return registry
    },
    credentialsIn: ({ requests }) =>
      requests.flatMap(({ headers, query, path }) => {
        const found = [headers.authorization, headers.cookie, headers['proxy-authorization']]
        const told = `${path}?${query}`.includes(secret) ? [path] : []
        return [...found.filter((text) => text !== undefined), ...told]
      }),
    expectSecretKept(...texts) {
      for (const text of texts) expect(text).not.toContain(secret)
      for (const form of [secret, ...[0, 1, 2].map((skip) => base64Core(secret, skip))]) {
        expect(filesHolding(daemon.bench.daemon.directory, form)).toEqual([])
        expect(daemon.log()).not.toContain(form)
      }
    },
    async [Symbol.asyncDispose]() {
      await daemon[Symbol.asyncDispose]()
      await proxy[Symbol.asyncDispose]()
      rmSync(work, { recursive: true, force: true })
    },
  }
}

/** The part of the base64 of a text that is the same whatever stands around it, when it begins at this offset. */
function base64Core(text: string, offset: number): string {
  const encoded = Buffer.from('x'.repeat(offset) + text)
    .toString('base64')
    .replace(/=+$/, '')
  return encoded.slice(offset === 0 ? 0 : 4, -2)
}

/** One for all tests of a file; for every test a new password, and a daemon and a proxy that remember nothing. */
export function useAttackBench() {
  let bench: AttackBench
  let secret = ''
  beforeAll(async () => {
    bench = await createAttackBench()
  })
  afterAll(() => bench[Symbol.asyncDispose]())
  beforeEach(async () => {
    secret = bench.plant()
    bench.proxy.routes.clear()
    bench.proxy.targets.splice(0)
    await bench.daemon.clear()
  })
  return {
    get bench() {
      return bench
    },
    get daemon() {
      return bench.daemon
    },
    get proxy() {
      return bench.proxy
    },
    get secret() {
      return secret
    },
  }
}
