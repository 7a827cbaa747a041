import { execFileSync, spawnSync } from 'node:child_process'
import { generateKeyPairSync, type KeyObject, sign } from 'node:crypto'
import { mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Digest, digestHex, digestOf } from '@isula-build/shared/oci/digest.js'
import { mediaTypes } from '@isula-build/shared/oci/media-types.js'
import { parseReference } from '@isula-build/shared/oci/reference.js'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import {
  registryCall,
  startDockerRegistry,
  testRegistryHttp,
} from '../../../../test/support/registry-bench.js'
import type { Logger } from '../ports/logger.js'
import type { Endpoint, RegistryClient, RemoteManifest } from '../ports/registry.js'
import type { ConfiguredRules } from '../ports/registry-rules.js'
import { createRegistryClient } from '../registry/client.js'
import { createRegistryRules } from './registry-rules.js'

let directory = ''
let gnupg = ''
let registry: Awaited<ReturnType<typeof startDockerRegistry>>
let http: ReturnType<typeof testRegistryHttp>
let client: RegistryClient
let manifest: RemoteManifest
let index: RemoteManifest
let endpoint: Endpoint
const logged: string[] = []
const write = (event: string, fields: Record<string, unknown> = {}): void => {
  logged.push(`${event} ${String(fields['reason'] ?? fields['warning'] ?? '')}`)
}
const log: Logger = { debug: write, info: write, warn: write, error: write }
const call = registryCall()
const cosign = generateKeyPairSync('ec', { namedCurve: 'P-256' })
const foreign = generateKeyPairSync('ec', { namedCurve: 'P-256' })
const pem = (key: KeyObject): string => key.export({ type: 'spki', format: 'pem' }).toString()
const configFile = (name: string): string => join(directory, 'etc', name)

async function putBlob(content: Uint8Array): Promise<{ digest: Digest; size: number }> {
  const blob = { digest: digestOf(content), size: content.length, path: join(directory, 'blob') }
  writeFileSync(blob.path, content)
  await client.uploadBlob(endpoint, blob, call)
  return { digest: blob.digest, size: blob.size }
}

async function putDocument(tag: string, mediaType: string, document: object): Promise<RemoteManifest> {
  const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType, ...document }))
  await client.putManifest(endpoint, tag, { mediaType, bytes }, call)
  return { mediaType, bytes, digest: digestOf(bytes) }
}

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'isula-rules-'))
  gnupg = join(directory, 'gnupg')
  mkdirSync(gnupg, { mode: 0o700 })
  mkdirSync(join(directory, 'etc/registries.d'), { recursive: true })
  registry = await startDockerRegistry()
  endpoint = { ...registry.endpoint, repository: 'team/app' }
  http = testRegistryHttp()
  client = createRegistryClient(http)

  const config = { architecture: 'amd64', os: 'linux', rootfs: { type: 'layers', diff_ids: [] } }
  const blob = await putBlob(Buffer.from(JSON.stringify(config)))
  const parts = { config: { mediaType: mediaTypes.ociConfig, ...blob }, layers: [] }
  manifest = await putDocument('1', mediaTypes.ociManifest, parts)
  const entry = { mediaType: manifest.mediaType, digest: manifest.digest, size: manifest.bytes.length }
  index = await putDocument('all', mediaTypes.ociIndex, {
    manifests: [{ ...entry, platform: { os: 'linux', architecture: 'amd64' } }],
  })

  for (const name of ['alice', 'bob']) {
    const args = ['--homedir', gnupg, '--batch', '--passphrase', '', '--quick-generate-key', `${name}@test`]
    execFileSync('gpg', [...args, 'rsa2048', 'sign', 'never'], { stdio: 'ignore' })
    const exported = execFileSync('gpg', ['--homedir', gnupg, '--export', `${name}@test`])
    writeFileSync(join(directory, `${name}.gpg`), exported)
  }
  writeFileSync(join(directory, 'cosign.pub'), pem(cosign.publicKey))
  const lookaside = `docker:\n  ${endpoint.host}:\n    lookaside: file://${directory}/sigs\n`
  writeFileSync(configFile('registries.d/test.yaml'), lookaside)
  writeFileSync(configFile('registries.toml'), 'unqualified-search-registries = ["one.test"]\n')
  // What people do: skopeo signs what it copies, into the lookaside.
  execFileSync(
    'skopeo',
    [
      ...[
        'copy',
        '--registries.d',
        configFile('registries.d'),
        '--sign-by',
        'alice@test',
        '--src-tls-verify=false',
      ],
      ...[
        '--dest-tls-verify=false',
        `docker://${endpoint.host}/team/app:1`,
        `docker://${endpoint.host}/team/app:1`,
      ],
    ],
    { env: { ...process.env, GNUPGHOME: gnupg }, stdio: 'ignore' },
  )
}, 60_000)

afterAll(async () => {
  spawnSync('gpgconf', ['--homedir', gnupg, '--kill', 'all'])
  http.close()
  await registry[Symbol.asyncDispose]()
  rmSync(directory, { recursive: true, force: true })
})
beforeEach(() => void logged.splice(0))

function rulesOf(requirements: readonly object[], scope = ''): ConfiguredRules {
  const transports = { docker: { [scope]: requirements } }
  writeFileSync(configFile('policy.json'), JSON.stringify({ default: [{ type: 'reject' }], transports }))
  return open()
}

const open = (): ConfiguredRules =>
  createRegistryRules({
    ...{ configDir: join(directory, 'etc'), client: () => client, log, environment: {} },
    runRoot: join(directory, 'run'),
  })

interface Asked {
  readonly tag?: string
  readonly withIndex?: RemoteManifest | undefined
  readonly of?: RemoteManifest
  readonly at?: Endpoint
}

function admit(
  rules: ConfiguredRules,
  { tag = '1', withIndex, of = manifest, at = endpoint }: Asked = {},
): Promise<void> {
  const reference = parseReference(`${endpoint.host}/team/app:${tag}`)
  return rules.admit({ reference, endpoint: at, manifest: of, index: withIndex }, call)
}

const rejected = (reason: string | RegExp) => ({
  code: 'ISB_POLICY_REJECTED',
  message: typeof reason === 'string' ? expect.stringContaining(reason) : expect.stringMatching(reason),
})
const another: () => RemoteManifest = () => ({ ...manifest, digest: digestOf('another') })

describe('signedBy', () => {
  const signedBy = (key: string, more: object = {}): readonly object[] => [
    { type: 'signedBy', keyType: 'GPGKeys', keyPath: join(directory, `${key}.gpg`), ...more },
  ]

  test('admits what skopeo signed, and leaves no keys behind', async () => {
    await admit(rulesOf(signedBy('alice')))
    const anyOf = {
      keyPath: undefined,
      keyPaths: ['bob', 'alice'].map((name) => join(directory, `${name}.gpg`)),
    }
    await admit(rulesOf(signedBy('alice', anyOf)))
    expect(readdirSync(join(directory, 'run/tmp'))).toEqual([])
  })

  test('names why it rejects', async () => {
    const scope = 'is rejected by policy.json: transports.docker[""] requires "signedBy": '
    await expect(admit(rulesOf(signedBy('bob')))).rejects.toMatchObject(
      rejected(`${endpoint.host}/team/app:1 ${scope}a signature is not valid: it was made with a key that`),
    )
    await expect(admit(rulesOf(signedBy('alice')), { tag: '2' })).rejects.toMatchObject(
      rejected(`a signature is for "${endpoint.host}/team/app:1"`),
    )
    await expect(admit(rulesOf(signedBy('alice')), { of: another() })).rejects.toMatchObject(
      rejected('no signature was found'),
    )
    await expect(admit(rulesOf(signedBy('nobody')))).rejects.toMatchObject(
      rejected(`the key ${directory}/nobody.gpg cannot be read: ENOENT`),
    )
  })

  test('of a repository admits its other tags, of an exact name another image’s', async () => {
    await admit(rulesOf(signedBy('alice', { signedIdentity: { type: 'matchRepository' } })), { tag: '2' })
    const dockerReference = `${endpoint.host}/team/app:1`
    await admit(rulesOf(signedBy('alice', { signedIdentity: { type: 'exactReference', dockerReference } })), {
      tag: '3',
    })
  })

  test('of another manifest does not count, wherever it lies', async () => {
    const place = (digest: Digest): string => join(directory, `sigs/team/app@sha256=${digestHex(digest)}`)
    renameSync(place(manifest.digest), place(another().digest))
    try {
      await expect(admit(rulesOf(signedBy('alice')), { of: another() })).rejects.toMatchObject(
        rejected('a signature is for another image'),
      )
    } finally {
      renameSync(place(another().digest), place(manifest.digest))
    }
  })

  test('and reject together reject', async () => {
    const both = [...signedBy('alice'), { type: 'reject' }]
    await expect(admit(rulesOf(both))).rejects.toMatchObject(rejected(/requires "reject"$/))
  })
})

describe('sigstoreSigned', () => {
  const signed = (more: object = {}): readonly object[] => [
    {
      ...{ type: 'sigstoreSigned', keyPath: join(directory, 'cosign.pub') },
      ...{ signedIdentity: { type: 'matchRepository' }, ...more },
    },
  ]

  /** As `cosign sign --key` does it. */
  async function attach(to: Digest, stated: Digest, key: KeyObject, changes: object = {}): Promise<void> {
    const critical = {
      identity: { 'docker-reference': `${endpoint.host}/team/app` },
      image: { 'docker-manifest-digest': stated },
      type: 'cosign container image signature',
      ...changes,
    }
    const payload = Buffer.from(JSON.stringify({ critical, optional: null }))
    const signature = sign('sha256', payload, key).toString('base64')
    const config = await putBlob(Buffer.from('{}'))
    await putDocument(`sha256-${digestHex(to)}.sig`, mediaTypes.ociManifest, {
      config: { mediaType: mediaTypes.ociConfig, ...config },
      layers: [
        {
          ...{ mediaType: 'application/vnd.dev.cosign.simplesigning.v1+json', ...(await putBlob(payload)) },
          annotations: { 'dev.cosignproject.cosign/signature': signature },
        },
      ],
    })
  }

  test('admits what was signed with the key, given as a file or as data', async () => {
    await attach(manifest.digest, manifest.digest, cosign.privateKey)
    await admit(rulesOf(signed()))
    const keyData = Buffer.from(pem(cosign.publicKey)).toString('base64')
    await admit(rulesOf(signed({ keyPath: undefined, keyData })))
  })

  test('rejects another key, name, image and type', async () => {
    const rules = rulesOf(signed())
    await attach(manifest.digest, manifest.digest, foreign.privateKey)
    await expect(admit(rules)).rejects.toMatchObject(
      rejected('it was not made with a key that the policy trusts'),
    )
    await attach(manifest.digest, another().digest, cosign.privateKey)
    await expect(admit(rules)).rejects.toMatchObject(rejected('a signature is for another image'))
    const foreignName = { identity: { 'docker-reference': 'quay.io/other' } }
    await attach(manifest.digest, manifest.digest, cosign.privateKey, foreignName)
    await expect(admit(rules)).rejects.toMatchObject(rejected('a signature is for "quay.io/other"'))
    await attach(manifest.digest, manifest.digest, cosign.privateKey, { type: 'atomic container signature' })
    await expect(admit(rules)).rejects.toMatchObject(rejected('a signature cannot be read: its type is'))
    await expect(admit(rules, { of: another() })).rejects.toMatchObject(rejected('no signature was found'))
    // Without a tag in the signature an exact match cannot be.
    await attach(manifest.digest, manifest.digest, cosign.privateKey)
    const exact = rulesOf(signed({ signedIdentity: undefined }))
    await expect(admit(exact)).rejects.toMatchObject(
      rejected(`a signature is for "${endpoint.host}/team/app"`),
    )
  })

  test('counts for an image when its index is signed, and for no other image', async () => {
    await attach(manifest.digest, manifest.digest, foreign.privateKey)
    await attach(index.digest, index.digest, cosign.privateKey)
    await admit(rulesOf(signed()), { withIndex: index })
    await expect(admit(rulesOf(signed()))).rejects.toMatchObject(rejected('not made with a key'))
    await expect(admit(rulesOf(signed()), { withIndex: index, of: another() })).rejects.toMatchObject(
      rejected('no signature was found'),
    )
  })

  test('is not looked for where registries.d says so', async () => {
    await attach(manifest.digest, manifest.digest, cosign.privateKey)
    writeFileSync(configFile('registries.d/off.yaml'), 'default-docker:\n  use-sigstore-attachments: false\n')
    try {
      await expect(admit(rulesOf(signed()))).rejects.toMatchObject(rejected('no signature was found'))
    } finally {
      rmSync(configFile('registries.d/off.yaml'))
    }
  })

  test('rejects when the registry does not answer', async () => {
    const at = { ...endpoint, host: '127.0.0.1:1' }
    await expect(admit(rulesOf(signed()), { at })).rejects.toMatchObject(rejected(/127\.0\.0\.1:1/))
  })

  test('of a call that ended is no verdict', async () => {
    const reference = parseReference(`${endpoint.host}/team/app:1`)
    const over = registryCall({}, AbortSignal.abort())
    const asked = rulesOf(signed()).admit({ reference, endpoint, manifest, index: undefined }, over)
    await expect(asked).rejects.not.toMatchObject({ code: 'ISB_POLICY_REJECTED' })
  })
})

test('signedBaseLayer admits nothing', async () => {
  const rules = rulesOf([{ type: 'signedBaseLayer', baseLayerIdentity: { type: 'matchExact' } }])
  await expect(admit(rules)).rejects.toMatchObject(
    rejected('requires "signedBaseLayer": which nothing implements'),
  )
})

test('archives are admitted by their own transports', () => {
  writeFileSync(
    configFile('policy.json'),
    JSON.stringify({
      default: [{ type: 'signedBy', keyType: 'GPGKeys', keyPath: '/k' }],
      transports: {
        'docker-archive': { '': [{ type: 'reject' }] },
        'oci-archive': { '/srv': [{ type: 'insecureAcceptAnything' }] },
      },
    }),
  )
  const rules = open()
  expect(() => rules.admitArchive('docker-archive', '/a.tar')).toThrow(
    '/a.tar is rejected by policy.json: transports.docker-archive[""] requires "reject"',
  )
  expect(() => rules.admitArchive('oci-archive', undefined)).toThrow(
    'the archive is rejected by policy.json: default',
  )
  rules.admitArchive('oci-archive', '/srv/a.tar')
})

describe('reading again', () => {
  const accept = [{ type: 'insecureAcceptAnything' }]

  test('takes new rules, and only whole ones', async () => {
    const rules = rulesOf(accept)
    expect(rules.lists.search).toEqual(['one.test'])
    writeFileSync(configFile('registries.toml'), 'unqualified-search-registries = ["two.test"]\nx = 1\n')
    await rules.reload()
    expect(rules.lists.search).toEqual(['two.test'])
    expect(rules.candidates('a').map(({ domain }) => domain)).toEqual(['localhost', 'two.test'])
    expect(logged).toEqual([
      `registries.warning ${configFile('registries.toml')}:2: \`x\` is not known, it has no effect`,
      'registries.reloaded ',
    ])

    writeFileSync(configFile('registries.toml'), 'unqualified-search-registries = ["three.test"]\n')
    writeFileSync(configFile('policy.json'), '{"default": [{"type": "accept"}]}')
    await rules.reload()
    expect(rules.lists.search).toEqual(['two.test'])
    await admit(rules)
    expect(logged.at(-1)).toBe(
      `registries.kept ${configFile('policy.json')}:1: unknown policy requirement type "accept"`,
    )

    rmSync(configFile('policy.json'))
    await rules.reload()
    expect(logged.at(-1)).toBe(`registries.kept ${configFile('policy.json')} is missing`)
    expect(() => open()).toThrow('policy.json is missing')
  })

  test('does not change what is being decided', async () => {
    const rules = rulesOf([{ type: 'reject' }])
    const decided = admit(rules)
    const settled = expect(decided).rejects.toMatchObject(rejected('requires "reject"'))
    rulesOf(accept)
    await rules.reload()
    await settled
    await admit(rules)
  })
})
