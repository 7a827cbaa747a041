import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { CredentialStore } from '../ports/credential-store.js'
import { createCredentialStore } from './credential-store.js'

let directory = ''
let rootFile = ''
let helperPath = ''
let store: CredentialStore

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'isula-logins-'))
  rootFile = join(directory, 'etc/auth.json')
  helperPath = join(directory, 'bin')
  mkdirSync(join(directory, 'etc'))
  mkdirSync(helperPath)
  store = createCredentialStore({
    ...{
      rootFile,
      directory: join(directory, 'auth'),
      helperPath: [helperPath, '/usr/bin', '/bin'],
      helperTime: 2000,
    },
  })
})
afterEach(() => rmSync(directory, { recursive: true, force: true }))

const login = (username: string, password = 'pw') => ({ username, password })
const base64 = (text: string): string => Buffer.from(text).toString('base64')
const writeRoot = (value: unknown): void =>
  writeFileSync(rootFile, typeof value === 'string' ? value : JSON.stringify(value))
const document = (path = rootFile) => JSON.parse(readFileSync(path, 'utf8'))
const mode = (path: string): string => (statSync(path).mode & 0o7777).toString(8)

describe('the file', () => {
  test('of root is Docker’s, indented with tabs', async () => {
    await store.set(0, 'quay.io', login('me', 'secret:with colon'))
    expect(readFileSync(rootFile, 'utf8')).toBe(
      `{\n\t"auths": {\n\t\t"quay.io": {\n\t\t\t"auth": "${base64('me:secret:with colon')}"\n\t\t}\n\t}\n}\n`,
    )
    expect(await store.get(0, 'quay.io', 'a/b')).toEqual(login('me', 'secret:with colon'))
  })

  test('is for its user alone, whatever the umask', async () => {
    const umask = process.umask(0)
    try {
      await store.set(0, 'quay.io', login('root'))
      await store.set(1000, 'quay.io', login('user'))
      chmodSync(rootFile, 0o666)
      chmodSync(join(directory, 'auth'), 0o777)
      await store.set(0, 'a.test', login('root'))
      await store.set(1000, 'a.test', login('user'))
    } finally {
      process.umask(umask)
    }
    expect(mode(rootFile)).toBe('600')
    expect(mode(join(directory, 'auth'))).toBe('700')
    expect(mode(join(directory, 'auth/1000.json'))).toBe('600')
  })

  test('of one user is none of another', async () => {
    await store.set(1000, 'quay.io', login('one'))
    await store.set(1001, 'quay.io', login('two'))
    expect(await store.get(1000, 'quay.io', '')).toEqual(login('one'))
    expect(await store.get(1001, 'quay.io', '')).toEqual(login('two'))
    expect(await store.get(0, 'quay.io', '')).toBeUndefined()
    await store.removeAll(1000)
    expect(await store.get(1001, 'quay.io', '')).toEqual(login('two'))
  })

  test('keeps fifty logins at once, and others of another user', async () => {
    const hosts = Array.from({ length: 50 }, (_, index) => `h${index}.test`)
    await Promise.all(hosts.flatMap((host) => [0, 1000].map((uid) => store.set(uid, host, login(`${uid}`)))))
    expect(Object.keys(document().auths).sort()).toEqual([...hosts].sort())
    expect(Object.keys(document(join(directory, 'auth/1000.json')).auths)).toHaveLength(50)
    await Promise.all(hosts.slice(1).map((host) => store.remove(0, host)))
    expect(Object.keys(document().auths)).toEqual(['h0.test'])
    expect(readdirSync(join(directory, 'etc'))).toEqual(['auth.json'])
  })

  test('keeps what is not understood', async () => {
    writeRoot({
      HttpHeaders: { a: 'b' },
      auths: { 'x.test': { auth: base64('u:p'), more: 1 } },
      detachKeys: 'x',
    })
    await store.set(0, 'quay.io', login('me'))
    expect(document()).toEqual({
      ...{ HttpHeaders: { a: 'b' }, detachKeys: 'x' },
      auths: { 'x.test': { auth: base64('u:p'), more: 1 }, 'quay.io': { auth: base64('me:pw') } },
    })
  })

  test('behind a link stays where it is', async () => {
    writeFileSync(join(directory, 'elsewhere.json'), '{}')
    symlinkSync(join(directory, 'elsewhere.json'), rootFile)
    await store.set(0, 'quay.io', login('me'))
    expect(document(join(directory, 'elsewhere.json')).auths['quay.io']).toEqual({ auth: base64('me:pw') })
  })

  test('is read by skopeo', async () => {
    await store.set(0, 'quay.io', login('me'))
    const args = ['login', '--authfile', rootFile, '--get-login', 'quay.io']
    expect(execFileSync('skopeo', args, { encoding: 'utf8' })).toBe('me\n')
  })

  test.each([
    ['{', 'it is not JSON'],
    ['[]', 'it is not an object'],
    ['{"auths": []}', '`auths` is not an object of objects'],
    ['{"auths": {"h": "x"}}', '`auths` is not an object of objects'],
    ['{"credHelpers": {"h": "../../bin/sh"}}', '`credHelpers` is not an object of names'],
    ['{"credHelpers": {"h": "-x"}}', '`credHelpers` is not an object of names'],
    ['{"credsStore": "a/b"}', '`credsStore` is no name of a helper'],
  ])('that is malformed (%s) is told and left alone', async (text, reason) => {
    writeRoot(text)
    const refused = { code: 'ISB_CONFIG_INVALID', message: `${rootFile} cannot be used: ${reason}` }
    await expect(store.get(0, 'quay.io', '')).rejects.toMatchObject(refused)
    await expect(store.set(0, 'quay.io', login('me'))).rejects.toMatchObject(refused)
    await expect(store.remove(0, 'quay.io')).rejects.toMatchObject(refused)
    await expect(store.removeAll(0)).rejects.toMatchObject(refused)
    expect(readFileSync(rootFile, 'utf8')).toBe(text)
  })

  test('that is malformed is not quoted', async () => {
    writeRoot(`{"auths": {"quay.io": {"auth": "${base64('me:secret')}" oops}}}`)
    const error: unknown = await store.get(0, 'quay.io', '').catch((caught) => caught)
    expect(`${(error as Error).stack} ${JSON.stringify(error)}`).not.toContain(
      base64('me:secret').slice(0, 8),
    )
  })

  test('is none of a device’s or a FIFO’s', async () => {
    execFileSync('mkfifo', [rootFile])
    await expect(store.get(0, 'quay.io', '')).rejects.toThrow('it is not a regular file')
  })

  test('that is empty is an empty one', async () => {
    writeRoot('\n')
    expect(await store.get(0, 'quay.io', '')).toBeUndefined()
    await store.set(0, 'quay.io', login('me'))
    expect(await store.get(0, 'quay.io', '')).toEqual(login('me'))
  })

  test('after a failed change serves the next one', async () => {
    writeRoot('{')
    const failing = store.set(0, 'a.test', login('a'))
    await expect(failing).rejects.toThrow()
    writeRoot('{}')
    await store.set(0, 'b.test', login('b'))
    expect(Object.keys(document().auths)).toEqual(['b.test'])
  })
})

describe('the entry that counts', () => {
  test('is the most specific one', async () => {
    for (const key of ['quay.io', 'quay.io/team', 'quay.io/team/app']) await store.set(0, key, login(key))
    const user = async (repository: string): Promise<string | undefined> =>
      (await store.get(0, 'quay.io', repository))?.username
    expect(await user('team/app')).toBe('quay.io/team/app')
    expect(await user('team/app/x')).toBe('quay.io/team/app')
    expect(await user('team/apps')).toBe('quay.io/team')
    expect(await user('teams/app')).toBe('quay.io')
    expect(await user('')).toBe('quay.io')
    expect(await store.get(0, 'quay.io:443', 'team/app')).toBeUndefined()
    expect(await store.get(0, 'evil-quay.io', 'team')).toBeUndefined()
  })

  test.each([
    ['https://index.docker.io/v1/', 'docker.io'],
    ['index.docker.io', 'docker.io'],
    ['docker.io', 'registry-1.docker.io'],
    ['index.docker.io/v1/', 'docker.io'],
    ['https://quay.io', 'quay.io'],
    ['http://quay.io:5000/v2/', 'quay.io:5000'],
    ['Quay.IO', 'quay.io'],
  ])('%s is for %s', async (written, host) => {
    writeRoot({ auths: { [written]: { auth: base64('me:pw') } } })
    expect(await store.get(0, host, 'a/b')).toEqual(login('me'))
    expect(await store.remove(0, host)).toBe(true)
    expect(document().auths).toEqual({})
  })

  test.each([
    ['quay.io/v1', 'quay.io'],
    ['quay.io.evil.test', 'quay.io'],
    ['__proto__', 'quay.io'],
    ['docker.io/team', 'docker.io'],
  ])('%s is not for %s', async (written, host) => {
    writeRoot(`{"auths": {${JSON.stringify(written)}: {"auth": "${base64('me:pw')}"}}}`)
    expect(await store.get(0, host, '')).toBeUndefined()
    expect(await store.get(0, 'constructor', '')).toBeUndefined()
  })

  test('may be an identity token', async () => {
    writeRoot({ auths: { 'a.test': { auth: base64('me:'), identitytoken: 'tok' } } })
    expect(await store.get(0, 'a.test', '')).toEqual({ username: '<token>', password: 'tok' })
    await store.set(0, 'b.test', { username: '<token>', password: 'tok2' })
    expect(await store.get(0, 'b.test', '')).toEqual({ username: '<token>', password: 'tok2' })
    expect(readFileSync(rootFile, 'utf8')).not.toContain(base64('<token>:tok2'))
  })

  test('that is malformed is an error, one without a login is none', async () => {
    writeRoot({ auths: { 'a.test': { auth: base64('nocolon') }, 'b.test': {}, 'c.test': { auth: 5 } } })
    await expect(store.get(0, 'a.test', '')).rejects.toThrow('the entry of a.test is malformed')
    expect(await store.get(0, 'b.test', '')).toBeUndefined()
    await expect(store.get(0, 'c.test', '')).rejects.toThrow('the entry of c.test is malformed')
  })

  test('is replaced in any spelling, and removed once', async () => {
    writeRoot({ auths: { 'https://index.docker.io/v1/': { auth: base64('old:pw') } } })
    await store.set(0, 'docker.io', login('new'))
    expect(Object.keys(document().auths)).toEqual(['docker.io'])
    expect(await store.remove(0, 'docker.io')).toBe(true)
    expect(await store.remove(0, 'docker.io')).toBe(false)
    expect(await store.remove(1000, 'docker.io')).toBe(false)
    expect(existsSync(join(directory, 'auth/1000.json'))).toBe(false)
  })

  test('goes with all others', async () => {
    await store.set(0, 'a.test', login('a'))
    await store.set(0, 'b.test', login('b'))
    await store.removeAll(0)
    expect(document()).toEqual({ auths: {} })
    await store.removeAll(0)
  })
})

describe('credential helpers', () => {
  /** Keeps one secret for every server in a file beside it. */
  const helper = (name: string, body: string): void => {
    const path = join(helperPath, `docker-credential-${name}`)
    writeFileSync(path, `#!/bin/sh\n${body}\n`)
    chmodSync(path, 0o755)
  }
  const keeper = `d=${'$(dirname "$0")'}
case $1 in
get) read -r s; f=$d/$(echo "$s" | tr / _); [ -e "$f" ] && cat "$f" || { echo credentials not found in native keychain; exit 1; };;
store) cat > "$d/last"; cp "$d/last" "$d/$(sed 's/.*"ServerURL":"\\([^"]*\\)".*/\\1/' "$d/last" | tr / _)";;
erase) read -r s; f=$d/$(echo "$s" | tr / _); [ -e "$f" ] || { echo credentials not found in native keychain; exit 1; }; rm "$f";;
esac`

  test('of a host keep what is logged in to it', async () => {
    helper('keep', keeper)
    writeRoot({ credHelpers: { 'a.test': 'keep' } })
    await store.set(0, 'a.test', login('me', 'hidden'))
    await store.set(0, 'b.test', login('me', 'plain'))
    expect(document().auths).toEqual({ 'a.test': {}, 'b.test': { auth: base64('me:plain') } })
    expect(await store.get(0, 'a.test', 'x')).toEqual(login('me', 'hidden'))
    expect(await store.remove(0, 'a.test')).toBe(true)
    expect(await store.get(0, 'a.test', 'x')).toBeUndefined()
    expect(document().credHelpers).toEqual({ 'a.test': 'keep' })
  })

  test('for everything are asked for everything', async () => {
    helper('all', keeper)
    writeRoot({ credsStore: 'all' })
    expect(await store.get(0, 'a.test', 'x/y')).toBeUndefined()
    await store.set(0, 'docker.io', login('hub'))
    expect(readFileSync(join(helperPath, 'last'), 'utf8')).toContain(
      '"ServerURL":"https://index.docker.io/v1/"',
    )
    expect(await store.get(0, 'docker.io', 'library/x')).toEqual(login('hub'))
    await store.removeAll(0)
    expect(await store.get(0, 'docker.io', 'library/x')).toBeUndefined()
  })

  test('see a clean environment and no arguments but the verb', async () => {
    helper(
      'spy',
      `env > ${directory}/env; echo "$@" > ${directory}/args; echo '{"Username":"u","Secret":"s"}'`,
    )
    writeRoot({ credHelpers: { 'a.test': 'spy' } })
    process.env['CANARY_VARIABLE'] = 'x'
    expect(await store.get(0, 'a.test', '')).toEqual({ username: 'u', password: 's' })
    delete process.env['CANARY_VARIABLE']
    expect(readFileSync(join(directory, 'env'), 'utf8')).not.toContain('CANARY')
    expect(readFileSync(join(directory, 'args'), 'utf8')).toBe('get\n')
  })

  test('are never run for another user than root', async () => {
    helper('spy', `touch ${directory}/ran; echo '{"Username":"u","Secret":"s"}'`)
    mkdirSync(join(directory, 'auth'))
    writeFileSync(join(directory, 'auth/1000.json'), '{"credsStore": "spy"}')
    expect(await store.get(1000, 'a.test', '')).toBeUndefined()
    expect(existsSync(join(directory, 'ran'))).toBe(false)
  })

  test.each([
    ['exit 3', '`get` ends with 3'],
    ['echo secret-canary', 'its answer to `get` is malformed'],
    ['echo \'{"Username": 5}\'', 'its answer to `get` is malformed'],
    ['exec sleep 60', 'it says nothing for 2 seconds'],
    ['sleep 60', 'it says nothing for 2 seconds'],
    ['yes', 'it says too much'],
  ])('that fail (%s) are named, what they said is not', async (body, reason) => {
    helper('bad', body)
    writeRoot({ credHelpers: { 'a.test': 'bad' } })
    const failure = store.get(0, 'a.test', '')
    await expect(failure).rejects.toMatchObject({
      code: 'ISB_CONFIG_INVALID',
      message: expect.stringContaining(reason),
    })
    await expect(failure).rejects.not.toThrow('secret-canary')
  })

  test('that are not installed are named', async () => {
    writeRoot({ credsStore: 'missing' })
    await expect(store.get(0, 'a.test', '')).rejects.toThrow(
      `docker-credential-missing is not in ${helperPath}, `,
    )
  })

  test('that do not store leave the file as it was', async () => {
    helper('bad', 'exit 1')
    writeRoot({ credsStore: 'bad' })
    await expect(store.set(0, 'a.test', login('me'))).rejects.toThrow('`store` ends with 1')
    expect(document()).toEqual({ credsStore: 'bad' })
  })
})
