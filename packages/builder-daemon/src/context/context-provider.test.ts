import {
  closeSync,
  constants,
  existsSync,
  fstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { BuilderError } from '@isula-build/shared/errors/builder-error.js'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { Caller, CallerFiles, ContextHandle } from '../ports/caller.js'
import type { ContextProvider } from '../ports/contexts.js'
import { type ContextSource, type ContextSources, createContextProvider } from './context-provider.js'

const caller: Caller = { uid: 1000, gid: 1000, groups: [], pid: 1, sameMountNamespace: true }
const signal = new AbortController().signal
let root = ''
let opened: string[] = []
let closed: string[] = []
let access: ContextHandle['access'] = 'direct'

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'isula-context-'))
  opened = []
  closed = []
  access = 'direct'
})
afterEach(() => rmSync(root, { recursive: true, force: true }))

function handleOf(path: string): ContextHandle {
  if (!existsSync(path)) throw new BuilderError('ISB_PATH_NOT_FOUND', path)
  opened.push(path)
  const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY)
  const { dev, ino } = fstatSync(fd, { bigint: true })
  return {
    ...{ access, fd, path, identity: { dev, ino }, helperOf: undefined },
    async [Symbol.asyncDispose]() {
      closeSync(fd)
      closed.push(path)
    },
  }
}

/** The parts of the caller's files a context needs; anything else fails the test. */
const files = {
  openDirectory: async (_: Caller, path: string) => handleOf(path),
  async openRead(_: Caller, path: string) {
    opened.push(path)
    if (!existsSync(path)) throw new BuilderError('ISB_PATH_NOT_FOUND', path)
    const { size, dev, ino } = statSync(path, { bigint: true })
    return { fd: openSync(path, 'r'), size: Number(size), dev, ino }
  },
} as unknown as CallerFiles

function write(name: string, content: string | Buffer): void {
  mkdirSync(dirname(join(root, name)), { recursive: true })
  writeFileSync(join(root, name), content)
}

function providerOf(
  more: Partial<ContextSources> = {},
  sources: Record<string, ContextSource> = { '': { kind: 'path', path: root } },
): ContextProvider {
  return createContextProvider({
    ...{ caller, files, ignore: undefined, dockerfile: 'Dockerfile', statTables: '/stat/1' },
    sources: new Map(Object.entries(sources)),
    ...more,
  })
}

test('a context is opened once, however many ask, and closed at the end', async () => {
  {
    await using provider = providerOf()
    const [one, two] = await Promise.all([provider.get('', signal), provider.get('', signal)])
    expect(one).toBe(two)
    expect(one).toMatchObject({ root: { access: 'direct' }, ignore: [], ignoreFile: undefined })
    expect([opened, closed]).toEqual([[root], []])
  }
  expect(closed).toEqual([root])
})

test('a context nobody gave is asked for by name', async () => {
  await using provider = providerOf({}, {})
  await expect(provider.get('', signal)).rejects.toMatchObject({
    code: 'ISB_CONTEXT_INVALID',
    message: 'the Dockerfile reads a build context, but none was given',
  })
  await expect(provider.get('docs', signal)).rejects.toThrow('the build context "docs"')
})

test('the ignore file of the Dockerfile counts instead of the general one', async () => {
  write('.dockerignore', 'general\n')
  await using first = providerOf()
  expect(await first.get('', signal)).toMatchObject({ ignore: ['general', ''], ignoreFile: '.dockerignore' })
  write('build/App.Dockerfile.dockerignore', '# a comment\nown/\n!own/not\n')
  await using second = providerOf({ dockerfile: 'build/App.Dockerfile' })
  expect(await second.get('', signal)).toMatchObject({
    ignore: ['', 'own', '!own/not', ''],
    ignoreFile: 'build/App.Dockerfile.dockerignore',
  })
})

test('an empty ignore file of the Dockerfile counts as well', async () => {
  write('.dockerignore', 'general\n')
  write('Dockerfile.dockerignore', '')
  for (const kind of ['direct', 'helper'] as const) {
    access = kind
    await using provider = providerOf()
    const tree = await provider.get('', signal)
    expect(tree.ignoreFile).toBe('Dockerfile.dockerignore')
    expect(tree.ignore.filter((line) => line !== '')).toEqual([])
  }
})

test('what came with the request counts for the build context alone', async () => {
  write('.dockerignore', 'file\n')
  await using provider = providerOf(
    { ignore: { lines: ['sent'], file: 'Dockerfile.dockerignore' } },
    { '': { kind: 'path', path: root }, other: { kind: 'path', path: root } },
  )
  expect((await provider.get('', signal)).ignore).toEqual(['sent'])
  expect(await provider.get('other', signal)).toMatchObject({
    ignore: ['file', ''],
    ignoreFile: '.dockerignore',
  })
})

test('the ignore file of a caller is read with his rights', async () => {
  access = 'helper'
  write('.dockerignore', 'mine\n')
  await using provider = providerOf()
  expect((await provider.get('', signal)).ignore).toEqual(['mine', ''])
  expect(opened).toEqual([root, join(root, 'Dockerfile.dockerignore'), join(root, '.dockerignore')])
})

test('an ignore file that leads out of the context is not followed', async () => {
  const outside = mkdtempSync(join(tmpdir(), 'isula-outside-'))
  try {
    writeFileSync(join(outside, 'secret'), 'stolen\n')
    symlinkSync(join(outside, 'secret'), join(root, '.dockerignore'))
    await using provider = providerOf()
    expect(await provider.get('', signal)).toMatchObject({ ignore: [], ignoreFile: undefined })
  } finally {
    rmSync(outside, { recursive: true, force: true })
  }
})

test('an ignore file that is no file is refused', async () => {
  mkdirSync(join(root, '.dockerignore'))
  await using provider = providerOf()
  await expect(provider.get('', signal)).rejects.toMatchObject({
    code: 'ISB_CONTEXT_INVALID',
    message: '.dockerignore in the build context is not a regular file',
  })
  expect(closed).toEqual([root])
})

test.each(['direct', 'helper'] as const)('an ignore file over 1 MiB is refused (%s)', async (kind) => {
  access = kind
  write('.dockerignore', Buffer.alloc(1024 * 1024 + 1, 'x'))
  await using provider = providerOf()
  await expect(provider.get('', signal)).rejects.toMatchObject({ code: 'ISB_LIMIT_EXCEEDED' })
  expect(closed).toEqual([root])
})

test('a streamed context is opened when it is needed', async () => {
  const open = async () => handleOf(root)
  write('.dockerignore', 'in/stream\n')
  await using provider = providerOf({}, { '': { kind: 'unpacked', open } })
  expect(opened).toEqual([])
  expect((await provider.get('', signal)).ignore).toEqual(['in/stream', ''])
})

test.each(['the same', 'another', 'none'])(
  'a path is taken only if the client sees it too: %s',
  async (what) => {
    const streamed = mkdtempSync(join(tmpdir(), 'isula-streamed-'))
    try {
      const { dev, ino } = statSync(what === 'the same' ? root : streamed, { bigint: true })
      const path = what === 'none' ? join(root, 'missing') : root
      const otherwise = async () => handleOf(streamed)
      const checked: ContextSource = { kind: 'checked', path, expected: { dev, ino }, otherwise }
      {
        await using provider = providerOf({}, { '': checked })
        await provider.get('', signal)
        expect(opened.at(-1)).toBe(what === 'the same' ? root : streamed)
      }
      // Also the one that was looked at in vain.
      expect(closed).toEqual(opened)
    } finally {
      rmSync(streamed, { recursive: true, force: true })
    }
  },
)
