import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { digestOf } from '../../packages/shared/src/oci/digest.js'
import {
  answers,
  breaksOff,
  flips,
  hangsUp,
  headers,
  loses,
  redirects,
  relocates,
  resets,
  truncates,
} from '../support/fake-registry/faults.js'
import { paths } from '../support/fake-registry/record.js'
import { type FakeRegistry, startFakeRegistry } from '../support/fake-registry.js'
import { account, startRealRegistry } from '../support/real-registry.js'

const run = promisify(execFile)
let work: string
beforeAll(() => {
  work = mkdtempSync(join(tmpdir(), 'fake-registry-test-'))
})
afterAll(() => rmSync(work, { recursive: true, force: true }))

const layers = [{ 'etc/first': 'one' }, { 'etc/second': Buffer.alloc(300_000, 7) }]

const skopeo = (...args: readonly string[]) =>
  run('skopeo', ['--insecure-policy', ...args], { env: { ...process.env, HOME: work } })

async function copyBetween(from: FakeRegistry, to: FakeRegistry, ...flags: readonly string[]): Promise<void> {
  const insecure = ['--src-tls-verify=false', '--dest-tls-verify=false']
  await skopeo('copy', ...insecure, ...flags, `docker://${from.host}/team/app:1`, `docker://${to.host}/x/y:2`)
}

const withToken = (token: string) => ({ authorization: `Bearer ${token}` })

describe('to skopeo it is a registry', () => {
  test.each(['docker', 'oci'] as const)('that serves and takes %s images', async (format) => {
    await using from = await startFakeRegistry()
    await using to = await startFakeRegistry()
    const image = from.addImage('team/app', '1', { layers, format })
    await copyBetween(from, to)
    const { manifests, tags, blobs } = to.storage.repository('x/y')
    expect(tags.get('2')).toBe(image.digest)
    expect(manifests.get(image.digest)?.bytes).toEqual(image.bytes)
    for (const { digest, size } of [image.config, ...image.layers]) {
      expect(digestOf(to.storage.read('x/y', digest))).toBe(digest)
      expect(to.storage.read('x/y', digest).length).toBe(size)
    }
    expect([...blobs].length).toBe(3)
    expect(to.violations.filter((text) => !/Content-Length|Accept/.test(text))).toEqual([])
  })

  test('that wants a password', async () => {
    await using from = await startFakeRegistry()
    await using to = await startFakeRegistry({ auth: { kind: 'basic', users: { anna: 'secret' } } })
    from.addImage('team/app', '1', { layers })
    await expect(copyBetween(from, to)).rejects.toThrow(/authentication required/)
    await copyBetween(from, to, '--dest-creds', 'anna:secret')
    expect(to.storage.repository('x/y').tags.has('2')).toBe(true)
  })

  test('that wants a token, with the scope of what is done', async () => {
    await using from = await startFakeRegistry()
    await using to = await startFakeRegistry({
      auth: {
        ...{ kind: 'token', users: { anna: 'secret', bert: 'secret' } },
        allows: (user, _repository, action) => user === 'anna' || (user === 'bert' && action === 'pull'),
      },
      tokenServer: {},
    })
    from.addImage('team/app', '1', { layers })
    await expect(copyBetween(from, to, '--dest-creds', 'anna:wrong')).rejects.toThrow(
      /incorrect|unauthorized/,
    )
    await expect(copyBetween(from, to, '--dest-creds', 'bert:secret')).rejects.toThrow(
      /denied|authentication/,
    )
    await copyBetween(from, to, '--dest-creds', 'anna:secret')
    expect(to.tokenRequests.map(({ status }) => status)).toContain(401)
    expect(to.requests.filter(({ status, user }) => status === 201 && user !== 'anna')).toEqual([])
  })
})

describe('by hand', () => {
  async function tokenFor(registry: FakeRegistry, scope: string): Promise<string> {
    const { headers } = await fetch(`${registry.origin}/v2/`)
    const realm = /realm="([^"]+)"/.exec(headers.get('www-authenticate') ?? '')?.[1] ?? ''
    const answer = await fetch(`${realm}?service=fake-registry&scope=${scope}`, {
      headers: { authorization: `Basic ${Buffer.from('anna:secret').toString('base64')}` },
    })
    return ((await answer.json()) as { readonly token: string }).token
  }

  test('an upload goes in chunks, each at the newest Location and in order', async () => {
    await using registry = await startFakeRegistry({ abilities: { chunkMinLength: 4 } })
    const url = `${registry.origin}/v2/a/b/blobs/uploads/`
    const begun = await fetch(url, { method: 'POST' })
    expect([begun.status, begun.headers.get('oci-chunk-min-length')]).toEqual([202, '4'])
    const at = (answer: Response): string => registry.origin + answer.headers.get('location')
    const chunk = (answer: Response, text: string, range: string) =>
      fetch(at(answer), { method: 'PATCH', body: text, headers: { 'content-range': range } })
    const first = await chunk(begun, 'hello ', '0-5')
    expect([first.status, first.headers.get('range')]).toEqual([202, '0-5'])
    const wrong = await chunk(first, 'late', '9-12')
    expect([wrong.status, wrong.headers.get('range')]).toEqual([416, '0-5'])
    const status = await fetch(at(wrong))
    expect([status.status, status.headers.get('range')]).toEqual([204, '0-5'])
    const second = await chunk(status, 'you', '6-8')
    const digest = digestOf('hello you')
    const done = await fetch(`${at(second)}&digest=${digest}`, { method: 'PUT' })
    expect([done.status, done.headers.get('location')]).toEqual([201, `/v2/a/b/blobs/${digest}`])
    expect(registry.violations).toEqual([])
    expect(registry.storage.read('a/b', digest).toString()).toBe('hello you')
  })

  test('what the spec forbids is noted', async () => {
    await using registry = await startFakeRegistry({ abilities: { chunkMinLength: 4 } })
    const begun = await fetch(`${registry.origin}/v2/a/b/blobs/uploads/`, { method: 'POST' })
    const first = registry.origin + begun.headers.get('location')
    await (await fetch(first, { method: 'PATCH', body: 'abc', headers: { 'content-range': '0-2' } })).text()
    await (await fetch(first, { method: 'PATCH', body: 'defg', headers: { 'content-range': '3-9' } })).text()
    await fetch(`${registry.origin}/v2/a/b/manifests/1`, {
      method: 'PUT',
      headers: { 'content-type': 'a/b' },
      body: JSON.stringify({ mediaType: 'a/b', config: { digest: digestOf('') } }),
    })
    expect(registry.violations.map((text) => text.replace(/^\S+ \S+: /, ''))).toEqual([
      'PATCH went to an old Location (1, the newest is 2)',
      'Content-Range "3-9" of a chunk of 4 bytes',
      'a chunk shorter than OCI-Chunk-Min-Length was not the last',
      `a manifest was put before its blob ${digestOf('')}`,
    ])
  })

  test('a blob comes in parts', async () => {
    await using registry = await startFakeRegistry()
    const { digest } = registry.addBlob('a/b', Buffer.from('0123456789'), 'x')
    const get = async (range: string) => {
      const answer = await fetch(`${registry.origin}/v2/a/b/blobs/${digest}`, { headers: { range } })
      return [answer.status, answer.headers.get('content-range'), await answer.text()]
    }
    expect(await get('bytes=7-')).toEqual([206, 'bytes 7-9/10', '789'])
    expect(await get('bytes=2-3')).toEqual([206, 'bytes 2-3/10', '23'])
    expect(await get('bytes=-1')).toEqual([206, 'bytes 9-9/10', '9'])
    expect((await get('bytes=10-')).slice(0, 2)).toEqual([416, 'bytes */10'])
  })

  test('tags come in pages, a mount needs the right to read there, tokens end', async () => {
    await using registry = await startFakeRegistry({
      abilities: { pageSize: 2 },
      auth: { kind: 'token', users: { anna: 'secret' }, lifetime: 60_000 },
    })
    for (const tag of ['c', 'a', 'b']) registry.addDocument('a/b', tag, 'x', '{}')
    const { digest } = registry.addBlob('a/b', Buffer.from('x'), 'x')
    const token = await tokenFor(registry, 'repository:a/b:pull')
    const list = await fetch(`${registry.origin}/v2/a/b/tags/list`, { headers: withToken(token) })
    expect(await list.json()).toEqual({ name: 'a/b', tags: ['a', 'b'] })
    expect(list.headers.get('link')).toBe('</v2/a/b/tags/list?n=2&last=b>; rel="next"')
    const writing = await tokenFor(registry, 'repository:c/d:pull,push')
    const both = await tokenFor(registry, 'repository:c/d:pull,push&scope=repository:a/b:pull')
    const mount = async (token: string) => {
      const query = `mount=${digest}&from=a/b`
      const url = `${registry.origin}/v2/c/d/blobs/uploads/?${query}`
      return (await fetch(url, { method: 'POST', headers: withToken(token) })).status
    }
    expect([await mount(token), await mount(writing), await mount(both)]).toEqual([401, 202, 201])
    registry.gate?.revoke()
    expect(await mount(both)).toBe(401)
  })

  test('referrers are listed by subject', async () => {
    await using registry = await startFakeRegistry()
    const subject = registry.addDocument('a/b', '1', 'x', '{}')
    registry.addDocument('a/b', 'sig', 'y', JSON.stringify({ subject, artifactType: 'z' }))
    const answer = await fetch(`${registry.origin}/v2/a/b/referrers/${subject.digest}?artifactType=z`)
    expect(await answer.json()).toMatchObject({ manifests: [{ artifactType: 'z' }] })
  })
})

describe('the script', () => {
  test('makes matching requests fail, in order, as often as it says', async () => {
    await using registry = await startFakeRegistry()
    registry.addImage('a/b', '1', { layers })
    const rule = registry.fail({ match: { path: paths.manifest }, skip: 1, times: 2, with: answers(503) })
    const get = async () => (await fetch(`${registry.origin}/v2/a/b/manifests/1`)).status
    expect([await get(), await get(), await get(), await get(), rule.used()]).toEqual([200, 503, 503, 200, 2])
    expect((await fetch(`${registry.origin}/v2/`)).status).toBe(200)
    expect(registry.count({ method: 'GET', path: paths.manifest })).toBe(4)
  })

  test('ends bodies early, changes bytes and headers, and redirects', async () => {
    await using registry = await startFakeRegistry()
    const { digest } = registry.addBlob('a/b', Buffer.from('0123456789'), 'x')
    const get = () => fetch(`${registry.origin}/v2/a/b/blobs/${digest}`, { redirect: 'manual' })
    const one = (fault: Parameters<FakeRegistry['fail']>[0]['with']) =>
      registry.fail({ match: { path: paths.blob }, with: fault })
    one(truncates('50%'))
    expect(await (await get()).text()).toBe('01234')
    for (const how of ['fin', 'reset'] as const) {
      one(breaksOff(3, how))
      const broken = await get()
      expect(broken.headers.get('content-length')).toBe('10')
      await expect(broken.text()).rejects.toThrow()
    }
    one(flips())
    expect(await (await get()).text()).toBe('1123456789')
    one(headers({ 'docker-content-digest': digestOf('lie'), 'content-type': undefined }))
    const lie = await get()
    expect([lie.headers.get('docker-content-digest'), lie.headers.get('content-type')]).toEqual([
      digestOf('lie'),
      null,
    ])
    one(redirects('http://elsewhere/'))
    expect((await get()).headers.get('location')).toBe('http://elsewhere/')
    for (const fault of [resets, hangsUp]) {
      one(fault)
      await expect(get()).rejects.toThrow('fetch failed')
    }
    expect(await (await get()).text()).toBe('0123456789')
  })

  test('loses an upload in the middle and keeps what came', async () => {
    await using registry = await startFakeRegistry()
    const body = Buffer.alloc(1_000_000, 1)
    const begun = await fetch(`${registry.origin}/v2/a/b/blobs/uploads/`, { method: 'POST' })
    const location = registry.origin + begun.headers.get('location')
    registry.fail({ match: { method: 'PATCH' }, with: loses(400_000) })
    await expect(fetch(location, { method: 'PATCH', body })).rejects.toThrow('fetch failed')
    const status = await fetch(location)
    expect(status.headers.get('range')).toBe('0-399999')
    registry.fail({ match: { path: paths.uploads }, with: relocates((path) => `http://127.0.0.1:1${path}`) })
    const moved = await fetch(`${registry.origin}/v2/a/b/blobs/uploads/`, { method: 'POST' })
    expect(moved.headers.get('location')).toMatch(/^http:\/\/127\.0\.0\.1:1\/v2\/a\/b\/blobs\/uploads\//)
  })
})

test('nothing is left of it', async () => {
  const registry = await startFakeRegistry()
  const { path } = registry.storage.beginUpload('a')
  expect(existsSync(path)).toBe(true)
  await registry[Symbol.asyncDispose]()
  expect(existsSync(path)).toBe(false)
  await expect(fetch(registry.origin)).rejects.toThrow()
})

describe("Debian's registry", () => {
  test('wants a client certificate and a password, and is the same after kill -9', async () => {
    await using from = await startFakeRegistry()
    from.addImage('team/app', '1', { layers })
    await using registry = await startRealRegistry({ tls: true, htpasswd: true })
    const certificates = join(work, 'certs')
    mkdirSync(certificates)
    for (const [name, text] of Object.entries(registry.certificates ?? {})) {
      writeFileSync(join(certificates, name), text)
    }
    const target = `docker://${registry.host}/a/b:1`
    const copy = (...flags: readonly string[]) =>
      skopeo('copy', '--src-tls-verify=false', ...flags, `docker://${from.host}/team/app:1`, target)
    const creds = ['--dest-creds', `${account.username}:${account.password}`]
    await expect(copy(...creds)).rejects.toThrow(/certificate/)
    await expect(copy('--dest-cert-dir', certificates)).rejects.toThrow(/authentication required/)
    await copy('--dest-cert-dir', certificates, ...creds)
    expect(registry.requests()).toContainEqual(expect.stringMatching(/^PUT \/v2\/a\/b\/manifests\/1 201 /))
    await registry.kill()
    await registry.start()
    await skopeo(
      ...['inspect', '--cert-dir', certificates, '--creds', `${account.username}:${account.password}`],
      target,
    )
  })
})
