import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type AuthFile, helperAt, keysFor, loginAt, readAuthFile, usualAuthFiles } from './auth-file.js'

let root: string
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'client-auth-'))
})
afterAll(() => rmSync(root, { recursive: true, force: true }))

let count = 0
function file(content: unknown, mode = 0o600): string {
  const path = join(root, `auth-${count++}.json`)
  writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content), { mode })
  return path
}

const base64 = (text: string): string => Buffer.from(text).toString('base64')

function read(path: string): AuthFile {
  const found = readAuthFile(path)
  if (found === undefined) throw new Error('there is no such file')
  return found
}

function refusal(path: string, look: (file: AuthFile) => unknown = () => undefined): string {
  try {
    look(read(path))
  } catch (error) {
    if (isBuilderError(error)) return error.message
    throw error
  }
  throw new Error('it was read')
}

describe('a file with logins', () => {
  test('holds them in all the forms that other tools write', () => {
    const auths = {
      'quay.io': { auth: base64('u:p:with:colons') },
      'quay.io/team': { auth: base64('t:p\0\0\0') },
      'https://registry.example.com/v2/': { username: 'a', password: 'b' },
      'HOST:5000': { auth: base64('ü:ß') },
      'token.io': { auth: base64('ignored:x'), identitytoken: 'tok' },
      'helped.io': {},
    }
    const found = read(file({ auths, HttpHeaders: { 'User-Agent': 'x' } }))
    expect(new Map([...found.logins.keys()].map((key) => [key, loginAt(found, key)]))).toEqual(
      new Map<string, unknown>([
        ['quay.io', { username: 'u', password: 'p:with:colons' }],
        ['quay.io/team', { username: 't', password: 'p' }],
        ['registry.example.com', { username: 'a', password: 'b' }],
        ['host:5000', { username: 'ü', password: 'ß' }],
        ['token.io', { username: '<token>', password: 'tok' }],
        ['helped.io', undefined],
      ]),
    )
  })

  test.each([
    'https://index.docker.io/v1/',
    'index.docker.io',
    'docker.io',
    'index.docker.io/v1/',
    'registry-1.docker.io',
  ])('means docker.io by %s', (key) => {
    const found = readAuthFile(file({ auths: { [key]: { auth: base64('u:p') } } }))
    expect([...(found?.logins.keys() ?? [])]).toEqual(['docker.io'])
  })

  test('names helpers', () => {
    const content = { credHelpers: { 'https://gcr.io': 'gcloud', 'quay.io/team': 'x' }, credsStore: 'pass' }
    const found = read(file(content))
    expect(found.store).toBe('pass')
    expect(['gcr.io', 'quay.io/team', 'quay.io'].map((key) => helperAt(found, key))).toEqual([
      ...['gcloud', 'x'],
      undefined,
    ])
  })

  test('may be empty or missing', () => {
    expect(readAuthFile(file(''))?.logins.size).toBe(0)
    expect(readAuthFile(file({}))?.store).toBeUndefined()
    expect(readAuthFile(join(root, 'missing'))).toBeUndefined()
  })

  test('is known to be exposed when others may read or write it', () => {
    for (const [mode, exposed] of [
      [0o600, false],
      [0o711, false],
      [0o640, true],
      [0o602, true],
    ] as const) {
      const path = file({})
      chmodSync(path, mode)
      expect(readAuthFile(path)?.exposed).toBe(exposed)
    }
  })

  test.each<[string, unknown, string]>([
    ['is no JSON', '{"auths": {"h": {"auth": "c2VjcmV0OnNlY3JldA=="', 'it is not JSON'],
    ['is a list', [], 'it is no JSON object'],
    ['has a list of auths', { auths: [] }, 'auths is no object'],
    ['has a number as store', { credsStore: 1 }, 'credsStore is no text'],
    ['is enormous', ' '.repeat(1024 * 1024 + 1), 'it is larger than 1 MiB'],
  ])('that %s is refused, and nothing of it is told', (_, content, reason) => {
    const path = file(content)
    expect(refusal(path)).toBe(`cannot read logins from ${path}: ${reason}`)
  })

  test.each<[string, unknown, string]>([
    ['is a text', { auths: { H: 'x', i: { auth: base64('u:p') } } }, 'the entry "H" is no object'],
    [
      'has no colon',
      { auths: { h: { auth: base64('secret') }, i: { auth: base64('u:p') } } },
      'the entry "h" holds no user name and password in base64',
    ],
    [
      'is a number as helper',
      { auths: { i: { auth: base64('u:p') } }, credHelpers: { h: 1 } },
      'credHelpers of "h" is no text',
    ],
  ])('with an entry that %s fails for that one alone', (_, content, reason) => {
    const path = file(content)
    expect(refusal(path, (found) => [helperAt(found, 'h'), loginAt(found, 'h')])).toBe(
      `cannot read logins from ${path}: ${reason}`,
    )
    expect([helperAt(read(path), 'i'), loginAt(read(path), 'i')]).toEqual([
      undefined,
      { username: 'u', password: 'p' },
    ])
  })

  test('of the same host under several names gives the first login', () => {
    const auths = { 'https://h/v2/': {}, H: { auth: base64('u:p') }, h: { auth: base64('x:y') } }
    expect(loginAt(read(file({ auths })), 'h')).toEqual({ username: 'u', password: 'p' })
  })

  test('that is a directory or a device is refused', () => {
    const directory = join(root, 'directory')
    mkdirSync(directory)
    expect(refusal(directory)).toContain('it is not a regular file')
    expect(refusal('/dev/zero')).toContain('it is not a regular file')
  })
})

test('keys are looked for from the most specific to the host', () => {
  expect(keysFor('Quay.io', 'team/app')).toEqual(['quay.io/team/app', 'quay.io/team', 'quay.io'])
  expect(keysFor('index.docker.io', 'library/busybox')).toEqual([
    'docker.io/library/busybox',
    'docker.io/library',
    'docker.io',
  ])
  expect(keysFor('h:5000', '')).toEqual(['h:5000'])
})

test('the usual files are those of containers, then that of docker', () => {
  expect(usualAuthFiles({ HOME: '/h', XDG_RUNTIME_DIR: '/run/user/5' }, 5)).toEqual([
    '/run/user/5/containers/auth.json',
    '/h/.config/containers/auth.json',
    '/h/.docker/config.json',
  ])
  expect(usualAuthFiles({ HOME: '/h', XDG_CONFIG_HOME: '/c', DOCKER_CONFIG: '/d' }, 0)).toEqual([
    '/run/containers/0/auth.json',
    '/c/containers/auth.json',
    '/d/config.json',
  ])
})
