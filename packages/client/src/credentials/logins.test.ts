import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { readAuthFile } from './auth-file.js'
import { askHelper } from './credential-helper.js'
import { type LoginSources, loginsFrom } from './logins.js'

let root: string
const path = process.env['PATH']
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'client-logins-'))
  mkdirSync(join(root, 'bin'))
  process.env['PATH'] = `${join(root, 'bin')}:${path}`
})
afterAll(() => {
  process.env['PATH'] = path
  rmSync(root, { recursive: true, force: true })
})

function helper(name: string, script: string): void {
  const file = join(root, 'bin', `docker-credential-${name}`)
  writeFileSync(file, `#!/bin/sh\n${script}\n`)
  chmodSync(file, 0o755)
}

/** Answers every question, with what it was asked as the password. */
const answering = `echo "$1" >> ${'"$0".log'}; read -r key; printf '{"ServerURL":"","Username":"u","Secret":"%s"}' "$key"`

let count = 0
function authFile(content: unknown, mode = 0o600): string {
  const file = join(root, `auth-${count++}.json`)
  writeFileSync(file, JSON.stringify(content))
  chmodSync(file, mode)
  return file
}

const auth = (text: string) => ({ auth: Buffer.from(text).toString('base64') })
const named = (content: unknown) => {
  const file = readAuthFile(authFile(content))
  if (file === undefined) throw new Error('no file')
  return file
}

let warnings: string[]
beforeEach(() => {
  warnings = []
})
const logins = (sources: Partial<LoginSources>) =>
  loginsFrom({
    given: undefined,
    hosts: undefined,
    named: undefined,
    usual: () => [],
    warn: (text) => warnings.push(text),
    ...sources,
  })

const given = { username: 'g', password: 'p' }

describe('what the user named for this command', () => {
  test('goes to the registries of the command, and to no other', async () => {
    const known = logins({ given, hosts: new Set(['h:5000', 'docker.io']) })
    expect(await known('h:5000', 'a')).toEqual({ ...given, explicit: true })
    expect(await known('index.docker.io', 'library/a')).toEqual({ ...given, explicit: true })
    expect(await known('mirror.example.com', 'a')).toBeUndefined()
    expect(warnings).toEqual([
      '[Warning] --creds is not sent to mirror.example.com, which the command does not name; log in, or use --authfile',
    ])
  })

  test('goes to what registries.toml puts in the place of such a registry', async () => {
    const known = logins({ given, hosts: new Set(['h:5000']) })
    expect(await known('real.example.com', 'team/a', 'h:5000')).toEqual({ ...given, explicit: true })
    expect(await known('real.example.com', 'team/a', 'other')).toBeUndefined()
  })

  test('goes to what a name without a registry means, not to mirrors, nor to a guess', async () => {
    expect(await logins({ given })('h', 'a', 'h')).toEqual({ ...given, explicit: true })
    expect(await logins({ given })('mirror', 'a')).toBeUndefined()
    expect(await logins({ given })('localhost', 'a', 'localhost')).toBeUndefined()
    const asked = logins({ given, hosts: new Set(['localhost']) })
    expect(await asked('localhost', 'a', 'localhost')).toEqual({ ...given, explicit: true })
  })

  test('comes from the file that was named, before all others', async () => {
    const file = named({ auths: { h: auth('u:p'), 'h/n': auth('n:p') } })
    const usual = [authFile({ auths: { h: auth('x:y'), other: auth('o:p') } })]
    const known = logins({ named: file, usual: () => usual })
    expect(await known('h', 'n/a')).toEqual({ username: 'n', password: 'p', explicit: true })
    expect(await known('h', 'nn/a')).toEqual({ username: 'u', password: 'p', explicit: true })
    expect(await known('other', 'a')).toEqual({ username: 'o', password: 'p', explicit: false })
  })
})

describe('the usual files', () => {
  test('are looked through in their order', async () => {
    const usual = [
      join(root, 'missing'),
      authFile({ auths: { h: auth('first:p') } }),
      authFile({ auths: { h: auth('second:p'), 'h/n': auth('n:p'), i: auth('i:p') } }),
    ]
    const known = logins({ usual: () => usual })
    expect((await known('h', 'n/a'))?.username).toBe('first')
    expect((await known('i', 'a'))?.username).toBe('i')
    expect(await known('nobody', 'a')).toBeUndefined()
    expect(warnings).toEqual([])
  })

  test('are warned about once when others can read a password that is used', async () => {
    const file = authFile({ auths: { h: auth('u:p') } }, 0o644)
    const known = logins({ usual: () => [file] })
    await known('other', 'a')
    expect(warnings).toEqual([])
    await known('h', 'a')
    await known('h', 'b')
    expect(warnings).toEqual([`[Warning] others can read the passwords in ${file}; chmod 600 it`])
  })

  test('stop nothing when they are broken', async () => {
    const broken = join(root, 'broken.json')
    writeFileSync(broken, 'secret')
    const known = logins({ usual: () => [broken, authFile({ auths: { h: auth('u:p') } })] })
    expect((await known('h', 'a'))?.username).toBe('u')
    expect(warnings).toEqual([`[Warning] cannot read logins from ${broken}: it is not JSON`])
  })

  test('with one entry that is broken still have the others', async () => {
    const file = authFile({ auths: { h: { auth: 'x' }, i: auth('u:p') } })
    const known = logins({ usual: () => [file, authFile({ auths: { h: auth('second:p') } })] })
    expect((await known('i', 'a'))?.username).toBe('u')
    expect(warnings).toEqual([])
    expect((await known('h', 'a'))?.username).toBe('second')
    expect(warnings).toEqual([
      `[Warning] cannot read logins from ${file}: the entry "h" holds no user name and password in base64`,
    ])
  })

  test('stop nothing when a helper is missing, which a file that was named does', async () => {
    const content = { credHelpers: { h: 'absent' }, auths: { h: auth('u:p') } }
    expect(await logins({ usual: () => [authFile(content)] })('h', 'a')).toBeUndefined()
    expect(warnings).toEqual(['[Warning] credential helper docker-credential-absent: it is not installed'])
    await expect(logins({ named: named(content) })('h', 'a')).rejects.toThrow('it is not installed')
  })
})

describe('helpers', () => {
  test('are asked before the file, the one of the host first', async () => {
    helper('own', answering)
    helper('store', answering)
    const file = named({
      auths: { h: auth('file:p'), i: auth('file:p') },
      credHelpers: { h: 'own', 'docker.io': 'own' },
      credsStore: 'store',
    })
    const known = logins({ named: file })
    expect(await known('h', 'a')).toEqual({ username: 'u', password: 'h', explicit: true })
    expect((await known('i', 'a'))?.password).toBe('i')
    // Docker's own spelling, under which its tools keep it.
    expect((await known('docker.io', 'library/a'))?.password).toBe('https://index.docker.io/v1/')
    expect(readFileSync(join(root, 'bin/docker-credential-store.log'), 'utf8')).toBe('get\n')
  })

  test('that know nothing leave it to the file', async () => {
    helper('empty', 'echo "credentials not found in native keychain"; exit 1')
    const file = named({ auths: { h: auth('file:p') }, credsStore: 'empty' })
    expect((await logins({ named: file })('h', 'a'))?.username).toBe('file')
  })

  test('give identity tokens', async () => {
    helper('token', `cat > /dev/null; echo '{"ServerURL":"h","Username":"<token>","Secret":"t"}'`)
    expect(await askHelper('token', 'h')).toEqual({ username: '<token>', password: 't' })
  })

  test.each([
    ['fails', 'echo "the vault is locked\u001b[31m" ; exit 3', 'the vault is locked [31m'],
    ['dies', 'kill -9 $$', 'exit code SIGKILL'],
    ['says nothing', 'exit 2', 'exit code 2'],
    ['babbles', 'echo secret', 'its answer is not JSON'],
    ['forgets the secret', `echo '{"Username":"u"}'`, 'its answer holds no user name and secret'],
    ['floods', 'cat > /dev/null; yes', 'its answer is too long'],
  ])('that %s is told', async (_, script, reason) => {
    helper('bad', script)
    const error = await askHelper('bad', 'h').catch((reason: unknown) => reason)
    expect(isBuilderError(error, 'ISB_ARGUMENT_INVALID')).toBe(true)
    expect(String(error)).toContain(`credential helper docker-credential-bad: ${reason}`)
    expect(String(error)).not.toContain('secret\n')
  })

  test('that never answers is given up, also when a child of its holds the pipe', async () => {
    helper('slow', 'sleep 3 & sleep 3')
    const start = performance.now()
    await expect(askHelper('slow', 'h', 300)).rejects.toThrow('it did not answer within 0.3 s')
    expect(performance.now() - start).toBeLessThan(2500)
  })

  test.each(['../x', '', 'a b', '-x', 'a/b'])('are no path: %j', async (name) => {
    await expect(askHelper(name, 'h')).rejects.toThrow('its name is no name of a program')
  })
})
