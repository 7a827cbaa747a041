import { chmodSync, mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { isBuilderError } from '@isula-build/shared/errors/builder-error.js'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  contextDirectory,
  dockerfileLimit,
  findDockerfile,
  findIgnoreFile,
  keyValues,
  readSecret,
  staticTime,
  variableOf,
} from './build-inputs.js'

let root: string
let context: string

beforeAll(() => {
  root = realpathSync(mkdtempSync(join(tmpdir(), 'client-inputs-')))
  context = join(root, 'context')
  mkdirSync(join(context, 'sub'), { recursive: true })
  writeFileSync(join(context, 'Dockerfile'), 'FROM scratch\n')
  writeFileSync(join(context, 'sub/Other'), 'FROM other\n')
  writeFileSync(join(root, 'outside'), 'FROM outside\n')
  writeFileSync(join(root, 'empty'), '')
  writeFileSync(join(root, 'large'), Buffer.alloc(dockerfileLimit + 1, 0x23))
  symlinkSync(context, join(root, 'link'))
})

afterAll(() => rmSync(root, { recursive: true, force: true }))

function failure(work: () => unknown): string {
  try {
    work()
  } catch (error) {
    if (isBuilderError(error)) return `${error.code} ${error.message}`
    throw error
  }
  throw new Error('nothing failed')
}

describe('the context directory', () => {
  test('is the real path of what was given, the current directory by default', () => {
    expect(contextDirectory(join(root, 'link'))).toBe(context)
    expect(contextDirectory('')).toBe(realpathSync('.'))
  })

  test('has to be there and has to be a directory', () => {
    const file = join(root, 'empty')
    expect(failure(() => contextDirectory(file))).toBe(
      `ISB_ARGUMENT_INVALID error runBuild: context directory path "${file}" should be a directory`,
    )
    expect(failure(() => contextDirectory(join(root, 'nope')))).toBe(
      `ISB_PATH_NOT_FOUND error runBuild: lstat ${join(root, 'nope')}: no such file or directory`,
    )
  })
})

describe('the Dockerfile', () => {
  test('is the one of the context by default, in lower case too', () => {
    expect(findDockerfile('', context)).toMatchObject({
      name: 'Dockerfile',
      path: join(context, 'Dockerfile'),
    })
    const lower = join(root, 'lower')
    mkdirSync(lower)
    writeFileSync(join(lower, 'dockerfile'), 'FROM lower\n')
    expect(findDockerfile('', lower).content.toString()).toBe('FROM lower\n')
  })

  test('is looked for as given, then below the context, and named relative to the context', () => {
    expect(findDockerfile('sub/Other', context).name).toBe('sub/Other')
    const given = relative('.', join(root, 'link/sub/Other'))
    expect(findDockerfile(given, context).name).toBe('sub/Other')
    expect(findDockerfile(join(root, 'outside'), context)).toMatchObject({ name: 'outside' })
  })

  test('that is at neither place names both', () => {
    const wanted = join(root, 'x')
    expect(failure(() => findDockerfile(wanted, context))).toBe(
      `ISB_PATH_NOT_FOUND error runBuild: check dockerfile ${wanted} failed: stat ${wanted}: no such file or directory, ` +
        `check dockerfile ${join(context, wanted)} failed again: stat ${join(context, wanted)}: no such file or directory`,
    )
  })

  test.each([
    ['empty', 'it is empty, the file cannot be empty'],
    ['large', 'it is larger than 1 MiB'],
    ['context', 'it is not a regular file'],
    ['empty/below', 'not a directory'],
  ])('%s is refused', (name, reason) => {
    expect(failure(() => findDockerfile(join(root, name), context))).toContain(reason)
  })
})

describe('the ignore file', () => {
  test('of the Dockerfile goes before that of the context', () => {
    const directory = join(root, 'ignoring')
    mkdirSync(directory)
    expect(findIgnoreFile(join(directory, 'Dockerfile'), directory)).toBeUndefined()
    writeFileSync(join(directory, '.dockerignore'), 'a\n')
    expect(findIgnoreFile(join(directory, 'Dockerfile'), directory)?.name).toBe('.dockerignore')
    writeFileSync(join(directory, 'Dockerfile.dockerignore'), 'b\n')
    expect(findIgnoreFile(join(directory, 'Dockerfile'), directory)?.content.toString()).toBe('b\n')
    expect(findIgnoreFile(undefined, directory)?.content.toString()).toBe('a\n')
    writeFileSync(join(root, 'outside.dockerignore'), 'c\n')
    expect(findIgnoreFile(join(root, 'outside'), directory)?.content.toString()).toBe('c\n')
  })

  test('has the limit of the original', () => {
    const directory = join(root, 'ignoring-much')
    mkdirSync(directory)
    writeFileSync(join(directory, '.dockerignore'), Buffer.alloc(dockerfileLimit + 1, 0x0a))
    expect(failure(() => findIgnoreFile(undefined, directory))).toContain('larger than 1 MiB')
  })
})

describe('KEY=VALUE', () => {
  test('is cut at the first equals sign, the last one of a key counts', () => {
    const values = keyValues(['A=b=c', 'B=', 'A=d=e', ' C = x'], () => undefined)
    expect([...values]).toEqual([
      ['A', 'd=e'],
      ['B', ''],
      [' C ', ' x'],
    ])
  })

  test('without a value takes it from elsewhere or is dropped', () => {
    const values = keyValues(['HERE', 'GONE'], (key) => (key === 'HERE' ? 'yes' : undefined))
    expect([...values]).toEqual([['HERE', 'yes']])
  })

  test('comes from no variable that a shell cannot hand on', () => {
    const environment = { HERE: 'yes', 'my.arg': 'yes' }
    expect(['HERE', 'GONE', 'my.arg'].map((key) => variableOf(environment, key))).toEqual([
      'yes',
      undefined,
      'yes',
    ])
    expect(failure(() => variableOf(environment, 'my-arg'))).toContain('write my-arg=VALUE')
  })

  test('needs a key', () => {
    expect(failure(() => keyValues(['=x'], () => undefined))).toBe(
      'ISB_ARGUMENT_INVALID error runBuild: invalid argument "=x", expected KEY=VALUE',
    )
    expect(failure(() => keyValues([''], () => ''))).toContain('expected KEY=VALUE')
  })
})

describe('a secret', () => {
  const value = (text: string, environment: Record<string, string> = {}): [string, string] => {
    const secret = readSecret(text, environment)
    return [secret.id, Buffer.from(secret.value).toString('latin1')]
  }

  test('comes from a file, byte for byte', () => {
    const path = join(root, 'secret')
    writeFileSync(path, Buffer.from([0, 0xff, 0x0a]))
    expect(value(`id=a,src=${path}`)).toEqual(['a', '\0\xff\n'])
    expect(value(`id=a,source=${path}`)).toEqual(['a', '\0\xff\n'])
    expect(value(`type=file,src=${path}`)[0]).toBe(path)
  })

  test('comes from a variable, named or of the same name', () => {
    expect(value('id=a,env=TOKEN', { TOKEN: 'x=y' })).toEqual(['a', 'x=y'])
    expect(value('id=TOKEN', { TOKEN: 't' })).toEqual(['TOKEN', 't'])
    expect(value('id=TOKEN,type=env', { TOKEN: 't' })).toEqual(['TOKEN', 't'])
  })

  test.each([
    ['', 'unexpected ""'],
    ['id', 'unexpected "id"'],
    ['src=', 'has no id'],
    ['id=a,path=x', 'unexpected "path=x"'],
    ['id=,src=x', 'has no id'],
    ['id=a,env=NOPE', 'no variable NOPE in the environment'],
    ['id=a,src=/nonexistent/x', 'secret a: stat /nonexistent/x: no such file or directory'],
    ['id=a,src=/dev', '/dev is not a regular file'],
  ])('written %j is refused', (text, message) => {
    expect(failure(() => readSecret(text, {}))).toContain(message)
  })

  test('has a limit', () => {
    const path = join(root, 'large-secret')
    writeFileSync(path, Buffer.alloc(500 * 1024 + 1))
    expect(failure(() => readSecret(`id=a,src=${path}`, {}))).toContain('secret a is larger than 500 KiB')
    chmodSync(path, 0o600)
  })
})

describe('--build-static', () => {
  test('takes a time in UTC', () => {
    expect(staticTime([])).toBeUndefined()
    expect(staticTime(['build-time=2020-05-23 10:55:33'])).toBe(Date.UTC(2020, 4, 23, 10, 55, 33))
    expect(staticTime(['build-time=1970-01-01 00:00:00'])).toBe(0)
  })

  test.each([
    '2020-05-23 10-55-33',
    '2020-05-23T10:55:33',
    '2020-13-01 00:00:00',
    '2020-02-30 00:00:00',
    '2020-05-23 24:00:00',
    '2020-05-23 10:55:33Z',
    '2020-05-23',
    '',
  ])('refuses %j', (time) => {
    expect(failure(() => staticTime([`build-time=${time}`]))).toBe(
      "ISB_ARGUMENT_INVALID error runBuild: build time format need like '2020-05-23 10:55:33'",
    )
  })

  test('knows no other option', () => {
    expect(failure(() => staticTime(['foo=1']))).toBe(
      'ISB_ARGUMENT_INVALID error runBuild: option "foo" not support by build-static',
    )
  })
})
